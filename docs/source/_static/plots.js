/* Draw plots in the page's own colours, light or dark, and follow a change.
 *
 * bokeh and plotly draw in the browser, so this can be done after the fact, on
 * the finished plots. Only the paper, axes, grid and text change: what shows data
 * keeps its colours.
 */
(() => {
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  const colours = () => ({
    paper: css("--color-background-primary"),
    ink: css("--color-foreground-primary"),
    muted: css("--color-foreground-muted"),
    grid: css("--color-background-border"),
  });

  function paintBokeh({ paper, ink, muted, grid }) {
    for (const doc of window.Bokeh?.documents ?? []) {
      for (const model of doc.all_models ?? doc._all_models.values()) {
        const set = (values) => {
          for (const [name, value] of Object.entries(values))
            if (name in model.properties) model[name] = value;
        };
        const type = model.type;
        if (type === "Figure")
          set({ background_fill_color: paper, border_fill_color: paper, outline_line_color: grid });
        else if (/Axis$/.test(type))
          set({
            axis_label_text_color: ink, major_label_text_color: ink,
            axis_line_color: muted, major_tick_line_color: muted, minor_tick_line_color: muted,
          });
        else if (/Grid$/.test(type)) set({ grid_line_color: grid });
        else if (type === "Title") set({ text_color: ink });
        else if (type === "Legend")
          set({ background_fill_color: paper, background_fill_alpha: 0.85, label_text_color: ink, border_line_color: grid });
        else if (type === "ColorBar")
          set({ background_fill_color: paper, major_label_text_color: ink, title_text_color: ink });
      }
    }
  }

  function paintPlotly({ paper, ink, grid }) {
    for (const div of document.querySelectorAll(".plotly-graph-div.js-plotly-plot")) {
      const update = { paper_bgcolor: paper, plot_bgcolor: paper, "font.color": ink };
      for (const axis of ["xaxis", "yaxis", "zaxis"]) {
        update[`scene.${axis}.gridcolor`] = grid;
        update[`scene.${axis}.backgroundcolor`] = paper;
      }
      window.Plotly.relayout(div, update);
    }
  }

  function paint() {
    const now = colours();
    paintBokeh(now);
    paintPlotly(now);
  }

  // Plots appear one by one, some after the page has loaded: paint when the
  // number of drawn ones changes, for as long as a slow machine may need.
  let painted = 0;
  const drawn = () =>
    (window.Bokeh?.documents.length ?? 0) + document.querySelectorAll(".js-plotly-plot").length;
  const timer = setInterval(() => {
    if (drawn() === painted) return;
    painted = drawn();
    paint();
  }, 100);
  setTimeout(() => clearInterval(timer), 20000);

  new MutationObserver(paint).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
})();
