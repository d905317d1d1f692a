/* Draw plots and sliders in the page's own colours, light or dark, follow a change, name the
 * sliders, show the numbers under the pointer, and let the page be scrolled where a plot lies in
 * the way.
 *
 * bokeh and plotly draw in the browser, so this can be done after the fact, on
 * the finished plots. Only the paper, axes, grid and text change, and lines in black,
 * the colour of those that were given none: other data keep their colours.
 */
(() => {
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  const colours = () => ({
    paper: css("--color-background-primary"),
    ink: css("--color-foreground-primary"),
    muted: css("--color-foreground-muted"),
    grid: css("--color-background-border"),
  });

  // -- bokeh --------------------------------------------------------------------

  // Which properties of a model were black before the first change.
  const black = new WeakMap();

  const modelsOf = (doc) => [...(doc.all_models ?? doc._all_models.values())];

  function blackProperties(model) {
    if (!black.has(model)) {
      const plain = (name) => model[name]?.value ?? model[name];
      black.set(model, Object.keys(model.properties).filter((name) =>
        /_color$/.test(name) && /^(black|#000|#000000)$/.test(plain(name))));
    }
    return black.get(model);
  }

  function coloursOf(model, onImage, { paper, ink, muted, grid }) {
    if (model.type === "Figure")
      return { background_fill_color: paper, border_fill_color: paper, outline_line_color: grid };
    // A line across an image lies on the image's colours, not on the paper.
    const values = Object.fromEntries(onImage ? [] : blackProperties(model).map((name) => [name, ink]));
    for (const name of Object.keys(model.properties))
      if (/text_color$/.test(name) && typeof model[name] === "string") values[name] = ink;
    if (/Axis$/.test(model.type))
      for (const part of ["axis", "major_tick", "minor_tick", "separator"]) values[`${part}_line_color`] = muted;
    if (/Grid$/.test(model.type)) values.grid_line_color = grid;
    if (/^(Legend|ColorBar)$/.test(model.type)) {
      values.background_fill_color = paper;
      values.border_line_color = grid;
      if (model.type === "Legend") values.background_fill_alpha = 0.85;
    }
    return values;
  }

  function paintBokeh(doc, now) {
    const models = modelsOf(doc);
    const onImage = models.some((model) => model.type === "Image");
    for (const model of models) {
      if (/Toolbar|Tool$|Stylesheet/i.test(model.type)) continue;
      for (const [name, value] of Object.entries(coloursOf(model, onImage, now)))
        if (name in model.properties)
          model[name] = typeof model[name] === "object" && model[name] ? { value } : value;
    }
  }

  /* A slider is two widgets, a text and a bare handle: read the one as the name of the other. */
  function nameSliders(view) {
    const [text, slider, ...more] = view.child_views ?? [];
    const handle = slider?.shadow_el?.querySelector(".noUi-handle");
    if (text?.model.type === "Div" && handle && !more.length) {
      const name = () => handle.setAttribute("aria-label", text.shadow_el.textContent.trim());
      text.model.change.connect(() => setTimeout(name));
      name();
    } else for (const child of view.child_views ?? []) nameSliders(child);
  }

  /* A slider lives in a shadow tree and is white on white, in the dark as well. */
  const SLIDER = `
    .noUi-target { background: var(--color-background-border); border-color: var(--color-foreground-muted); box-shadow: none; }
    .noUi-connect { background: none; }
    .noUi-handle { background: var(--color-brand-primary); border-color: var(--color-background-primary); box-shadow: none; }
  `;

  function colourSliders(view) {
    if (view.shadow_el?.querySelector(".noUi-target")) {
      const style = document.createElement("style");
      style.textContent = SLIDER;
      view.shadow_el.append(style);
    }
    if (view.model.css_classes?.includes("panel-widget-box")) view.el.style.borderColor = "var(--color-background-border)";
    (view.child_views ?? []).forEach(colourSliders);
  }

  /* A plot zooms once the reader has picked a tool for it. A mouse may drag at once, for that
     scrolls no page; a finger scrolls. */
  function letScroll(toolbar) {
    toolbar.active_scroll = null;
    if (matchMedia("(pointer: coarse)").matches) toolbar.active_drag = null;
  }

  /* The numbers under the pointer: those of the nearest point, or of a picture at this place. */
  function readOut(figure) {
    const HoverTool = window.Bokeh.Models.get("HoverTool");
    const [images, points, lines] = ["Image", "Scatter", "Line"].map((type) =>
      figure.renderers.filter(({ glyph }) => glyph?.type === type));
    // Of one kind only: a point of a line under a dot would be shown twice.
    const renderers = [images, points, lines].find((some) => some.length);
    if (!renderers) return;
    const { glyph } = renderers[0];
    const numbers = images.length ? "$" : "$snap_";
    const place = (name, [axis]) =>
      axis?.type === "CategoricalAxis"
        ? [axis.axis_label, `@{${glyph[name].field}}`]
        : [axis?.axis_label || name, `${numbers}${name}{%.4g}`];
    const rows = [place("x", figure.below), place("y", figure.left)];
    if (images.length) rows.push(["value", `@{${glyph.image.field}}{%.4g}`]);
    // As text of our own: the names in a table of Bokeh's are hard to read.
    const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
    const tooltips = rows.map(([name, value]) => `<div>${name ? `${escape(name)}: ` : ""}${value}</div>`).join("");
    const formatters = Object.fromEntries(rows.map(([, value]) => [value.replace("{%.4g}", ""), "printf"]));
    const hover = new HoverTool({ renderers, tooltips, formatters, visible: false });
    figure.toolbar.tools = [...figure.toolbar.tools, hover];
  }

  /* Bokeh moves a legend behind its plot when the plot gets another tool: put it back in front. */
  function keepLegends(figure) {
    const viewOf = (model) => window.Bokeh.index.find_one(model);
    const { underlays_el: behind } = viewOf(figure).canvas_view;
    const legends = [...figure.references()].filter(({ type }) => type === "Legend").map((model) => viewOf(model).el);
    const places = legends.map((legend) => [legend, legend.parentNode]);
    const putBack = () => places.forEach(([legend, place]) => legend.parentNode === behind && place.append(legend));
    new MutationObserver(putBack).observe(behind, { childList: true });
  }

  // -- plotly -------------------------------------------------------------------

  function paintPlotly(div, { paper, ink, grid }) {
    const update = { paper_bgcolor: paper, plot_bgcolor: paper, "font.color": ink };
    for (const [name, part] of Object.entries(div._fullLayout)) {
      const axes = /^scene\d*$/.test(name)
        ? ["xaxis", "yaxis", "zaxis"].filter((axis) => part[axis]).map((axis) => `${name}.${axis}`)
        : /^[xy]axis\d*$/.test(name) ? [name] : [];
      for (const axis of axes) {
        update[`${axis}.gridcolor`] = update[`${axis}.zerolinecolor`] = grid;
        if (name !== axis) update[`${axis}.backgroundcolor`] = paper;
      }
    }
    window.Plotly.relayout(div, update);
  }

  /* What a finger turns must not lie in the way of one that scrolls: it turns after a tap, and
     rests again once the reader taps elsewhere. */
  function turnAfterTap(div) {
    if (!matchMedia("(pointer: coarse)").matches) return;
    const button = document.createElement("button");
    button.className = "tap-to-turn";
    button.append(Object.assign(document.createElement("span"), { textContent: "Tap to turn or zoom" }));
    div.classList.add("plot-at-rest");
    div.append(button);
    button.addEventListener("click", () => (button.hidden = true));
    document.addEventListener("pointerdown", ({ target }) => {
      if (!div.contains(target)) button.hidden = false;
    });
  }

  // -- when ---------------------------------------------------------------------

  const painted = new WeakMap(); // a plot and the paper it was last drawn on

  function paint() {
    const now = colours();
    const once = (plot, draw) => {
      if (painted.get(plot) === now.paper) return;
      painted.set(plot, now.paper);
      draw(plot, now);
    };
    const index = window.Bokeh?.index;
    for (const doc of window.Bokeh?.documents ?? []) {
      const views = doc.roots().map((root) => index[root.id] ?? index.get?.(root));
      if (!views[0]) continue; // not drawn yet
      if (!painted.has(doc)) {
        views.filter(Boolean).forEach((view) => {
          nameSliders(view);
          colourSliders(view);
        });
        modelsOf(doc).filter((model) => model.type === "Toolbar").forEach(letScroll);
        const figures = modelsOf(doc).filter((model) => model.type === "Figure");
        figures.forEach(keepLegends);
        figures.forEach(readOut);
      }
      once(doc, paintBokeh);
    }
    for (const div of document.querySelectorAll(".plotly-graph-div.js-plotly-plot")) {
      if (!div._fullLayout) continue; // not drawn yet
      if (!painted.has(div)) {
        // Its buttons zoom as well.
        div.addEventListener("wheel", (event) => event.stopPropagation(), { capture: true });
        turnAfterTap(div);
      }
      once(div, paintPlotly);
    }
  }

  // Plots appear one by one, some after the page has loaded: look for as long as a
  // slow machine may need.
  const timer = setInterval(paint, 100);
  setTimeout(() => clearInterval(timer), 20000);

  new MutationObserver(paint).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
})();
