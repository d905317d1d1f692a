/* What the tests ask a page about its plots. Runs in the page, as `window.probe`.
 *
 * A plot counts as drawn when hiding its data changes its pixels: neither an element of
 * the right size nor a finished library proves that a reader sees a curve.
 */
window.probe = (() => {
  // -- Colours, as WCAG sees them ---------------------------------------------

  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  function rgb(colour) {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    return brush.getImageData(0, 0, 1, 1).data;
  }

  const LINEAR = Array.from({ length: 256 }, (_, i) =>
    i < 11 ? i / 255 / 12.92 : ((i / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (data, i = 0) =>
    0.2126 * LINEAR[data[i]] + 0.7152 * LINEAR[data[i + 1]] + 0.0722 * LINEAR[data[i + 2]];
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const contrast = (a, b) => ratio(luminance(rgb(a)), luminance(rgb(b)));

  /** How many pixels differ, and the contrast that one in a hundred of them exceeds. */
  function difference(seen, without) {
    const ratios = [];
    for (let i = 0; i < seen.length; i += 4)
      if (seen[i] !== without[i] || seen[i + 1] !== without[i + 1] || seen[i + 2] !== without[i + 2])
        ratios.push(ratio(luminance(seen, i), luminance(without, i)));
    ratios.sort((a, b) => a - b);
    return { pixels: ratios.length, contrast: ratios[Math.floor(0.99 * ratios.length)] ?? 1 };
  }

  const paper = () => getComputedStyle(document.body).backgroundColor;

  // -- Scrolling ----------------------------------------------------------------

  /** Whether a plot takes the wheel that should move the page. A made-up event scrolls nothing itself. */
  function wheelProblems(name, element) {
    const { left, top, width, height } = element.getBoundingClientRect();
    const wheel = new WheelEvent("wheel", {
      deltaY: 100,
      clientX: left + width / 2,
      clientY: top + height / 2,
      bubbles: true,
      composed: true,
      cancelable: true,
    });
    element.dispatchEvent(wheel);
    return wheel.defaultPrevented ? [`${name} takes the wheel from the page`] : [];
  }

  // -- Bokeh --------------------------------------------------------------------

  const roots = () => [...document.querySelectorAll("[data-root-id]")];

  function views(root) {
    const view = window.Bokeh?.index[root.dataset.rootId];
    const all = (view) => [view, ...(view.child_views ?? []).flatMap(all)];
    return view ? all(view) : [];
  }

  const figures = (root) => views(root).filter((view) => view.model.type === "Figure");

  function canvasPixels(figure, { left, top, width, height }) {
    const layer = figure.canvas_view.compose();
    const box = [left, top, width, height].map((n) => n * layer.pixel_ratio);
    return layer.canvas.getContext("2d").getImageData(...box).data;
  }

  const framePixels = (figure) => canvasPixels(figure, figure.frame.bbox);

  /** Where an element in front of a figure is, on the figure's canvas. */
  function place(element, figure) {
    const { left, top, width, height } = element.getBoundingClientRect();
    const canvas = figure.canvas_view.el.getBoundingClientRect();
    return { left: left - canvas.left, top: top - canvas.top, width, height };
  }

  function bokehProblems(root, index) {
    const name = `bokeh plot ${index + 1}`;
    if (!figures(root).length) return [`${name} has not drawn: there is no figure`];
    return figures(root).flatMap((figure) => {
      const found = wheelProblems(name, figure.canvas_view.events_el);
      const background = figure.model.background_fill_color;
      if (contrast(background, paper()) > 1.5)
        found.push(`${name} is ${background} on a page of ${paper()}`);

      // Each alone, for curves that run together hide one another, but on what lies under all.
      const data = figure.model.renderers.filter((one) => one.visible);
      const pixelsWith = (wanted) => {
        for (const one of data) one.visible = wanted(one);
        figure.paint();
        return framePixels(figure);
      };
      const kind = (one) => one.glyph?.type ?? one.type; // error bars have no glyph
      let drawn = 0;
      for (const renderer of data) {
        const ground = (one) => one !== renderer && kind(one) === "Image";
        const seen = pixelsWith((one) => one === renderer || ground(one));
        const { pixels, contrast } = difference(seen, pixelsWith(ground));
        drawn += pixels;
        if (pixels && contrast < 1.5)
          found.push(`${name}: ${kind(renderer)} is hard to see, ${contrast.toFixed(1)} to 1`);
      }
      pixelsWith(() => true);
      if (!drawn) found.push(`${name} has not drawn: its data leave no pixel`);

      for (const model of figure.model.references()) {
        const view = model.type === "Legend" && window.Bokeh.index.find_one(model);
        if (view && view.el.parentNode === figure.canvas_view.underlays_el)
          found.push(`${name} hides its legend`);
        const area = view && place(view.el, figure);
        if (area && area.width >= 1 && model.visible) {
          const under = () => canvasPixels(figure, area);
          pixelsWith(() => true);
          const seen = under();
          pixelsWith(() => false);
          if (difference(seen, under()).pixels) found.push(`${name} has data under its legend`);
          pixelsWith(() => true);
        }
        for (const property of Object.keys(model.properties))
          if (/text_color$/.test(property) && typeof model[property] === "string" && !/Glyph|^Text$/.test(model.type)) {
            const seen = contrast(model[property], background);
            if (seen < 4.5)
              found.push(`${name}: ${model.type}.${property} is hard to read, ${seen.toFixed(1)} to 1`);
          }
      }
      return found;
    });
  }

  // -- Plotly -------------------------------------------------------------------

  const drawn = new WeakSet();
  const plotlyCanvas = (div) => div.querySelector(".gl-container canvas, .nsewdrag");

  async function pixelsOf(figure) {
    const image = new Image();
    image.src = await window.Plotly.toImage(figure, { format: "png", width: 300, height: 200 });
    await image.decode();
    const canvas = new OffscreenCanvas(300, 200).getContext("2d");
    canvas.drawImage(image, 0, 0);
    return canvas.getImageData(0, 0, 300, 200).data;
  }

  async function plotlyProblems(div, index) {
    const name = `plotly plot ${index + 1}`;
    if (!div._fullData?.length) return [`${name} has not drawn: it has no traces`];
    const found = [];
    for (const scene of Object.keys(div._fullLayout).filter((key) => /^scene\d*$/.test(key)))
      for (const axis of ["xaxis", "yaxis", "zaxis"]) {
        const { visible, showticklabels, title } = div._fullLayout[scene][axis];
        if (!visible || !showticklabels || !title.text) found.push(`${name} has no ${axis}`);
      }
    const canvas = plotlyCanvas(div);
    if (canvas) found.push(...wheelProblems(name, canvas));
    const background = div._fullLayout.paper_bgcolor;
    if (contrast(background, paper()) > 1.5)
      found.push(`${name} is ${background} on a page of ${paper()}`);
    if (contrast(div._fullLayout.font.color, background) < 4.5)
      found.push(`${name}: its text is hard to read`);
    // Without a graphics card each such picture takes seconds; new colours hide no data.
    if (drawn.has(div)) return found;
    const { data, layout } = div;
    const hidden = data.map((trace) => ({ ...trace, visible: false }));
    const { pixels } = difference(await pixelsOf({ data, layout }), await pixelsOf({ data: hidden, layout }));
    if (pixels) drawn.add(div);
    else found.push(`${name} has not drawn: its data leave no pixel`);
    return found;
  }

  // -- Sliders ------------------------------------------------------------------

  const handles = (root) =>
    views(root).map((view) => view.shadow_el?.querySelector(".noUi-handle")).filter(Boolean);

  function sliderProblems(handle, index) {
    const colour = (element) => getComputedStyle(element).backgroundColor;
    const seen = contrast(colour(handle), colour(handle.closest(".noUi-target")));
    return seen < 3 ? [`the handle of slider ${index + 1} is hard to see, ${seen.toFixed(1)} to 1`] : [];
  }

  // -- Pictures -----------------------------------------------------------------

  const visible = (element) => element.checkVisibility({ visibilityProperty: true });

  function pictureProblems(image) {
    const name = image.getAttribute("src")?.slice(0, 60);
    if (!image.naturalWidth) return [`picture ${name} has not loaded`];
    const canvas = new OffscreenCanvas(100, 100).getContext("2d");
    canvas.drawImage(image, 0, 0, 100, 100);
    const data = new Uint32Array(canvas.getImageData(0, 0, 100, 100).data.buffer);
    return data.every((pixel) => pixel === data[0]) ? [`picture ${name} is empty`] : [];
  }

  function drawingProblems(svg) {
    const { width, height } = svg.getBBox();
    return width && height ? [] : [`drawing ${svg.outerHTML.slice(0, 60)} is empty`];
  }

  // -- What the tests call ------------------------------------------------------

  const plotly = () => [...document.querySelectorAll(".plotly-graph-div")];
  const own = (tag) => [...document.querySelectorAll(`article ${tag}`)].filter(visible);

  return {
    /** Whether every plot says that it is ready to be looked at. */
    ready: () =>
      roots().every((root) => figures(root).length && figures(root).every((one) => one.has_finished())) &&
      plotly().every((div) => div._fullData?.length) &&
      own("img").every((image) => image.complete),

    /** What is wrong with the plots and pictures of the page, one line each. */
    plots: async () => [
      ...roots().flatMap(bokehProblems),
      ...roots().flatMap(handles).flatMap(sliderProblems),
      ...(await Promise.all(plotly().map(plotlyProblems))).flat(),
      ...own("img").flatMap(pictureProblems),
      // Plotly's hold layers for what a plot may have.
      ...own("svg").filter((svg) => !svg.closest(".plotly-graph-div")).flatMap(drawingProblems),
    ],

    /** Each plot's name, and where a finger meets it. */
    plotElements: () => [
      ...roots().map((root, index) => [`bokeh plot ${index + 1}`, root]),
      ...plotly().map((div, index) => [`plotly plot ${index + 1}`, plotlyCanvas(div) ?? div]),
    ],

    /** What is wrong with the code of the page: what no finger finds, and what is no link. */
    code: () => {
      const found = own("button.copybtn").some((button) => getComputedStyle(button).opacity < 1)
        ? ["a copy button shows under a mouse only"]
        : [];
      const torn = own("code.literal:not(td *)").find((element) => {
        const [next] = element.nextSibling?.textContent.match(/^[.,:;?!)]/) ?? [];
        if (!next) return false;
        const range = document.createRange();
        range.setStart(element.nextSibling, 0);
        range.setEnd(element.nextSibling, 1);
        const { top, height } = [...element.getClientRects()].at(-1);
        return range.getBoundingClientRect().top > top + height / 2;
      });
      if (torn) found.push(`${torn.textContent} is torn from its punctuation`);
      for (const text of own(innerWidth < 480 ? ".cell_input .highlight pre" : "none")) {
        const [first, ...lines] = text.textContent.trim().split("\n");
        const besideButton = first.length > 55 ? 1 : 0;
        const { fontSize, lineHeight, paddingBlockStart, paddingBlockEnd } = getComputedStyle(text);
        const height = text.clientHeight - parseFloat(paddingBlockStart) - parseFloat(paddingBlockEnd);
        const broken = Math.round(height / (parseFloat(lineHeight) || 1.2 * parseFloat(fontSize))) - 1 - lines.length;
        if (broken > besideButton && [first, ...lines].every((line) => line.length <= 60))
          found.push(`${broken} lines of "${text.textContent.trim().slice(0, 40)}" break, none is longer than 60`);
      }
      const link = own(".highlight :is(span, code)").find((element) =>
        !element.closest("a") && /underline/.test(getComputedStyle(element).textDecorationLine));
      if (link) found.push(`${link.textContent} looks like a link and is none`);
      return found;
    },

    /** The entries of the reference that say nothing about what they name. */
    nameless: () => own("dl.py > dt").flatMap((entry) => {
      let text = entry.nextElementSibling;
      while (text?.tagName === "DT") text = text.nextElementSibling;
      return text?.textContent.trim() ? [] : [`${entry.id} has no description`];
    }),

    /** Mark three pieces of text for each look: a colour, a size and a weight on one ground. */
    markLooks: () => {
      const grounds = new Map();
      const ground = (element) => {
        if (!element) return "";
        if (!grounds.has(element)) {
          const { backgroundColor, backgroundImage, opacity } = getComputedStyle(element);
          grounds.set(element, [backgroundColor, backgroundImage, opacity, ground(element.parentElement)].join());
        }
        return grounds.get(element);
      };
      const hasText = (element) =>
        [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      const seen = new Map();
      for (const element of document.body.querySelectorAll("*")) {
        const { left, right } = element.getBoundingClientRect();
        const isShown = visible(element) && right > left && right > 0 && left < innerWidth;
        const { color, fontSize, fontWeight } = getComputedStyle(element);
        const looks = [color, fontSize, fontWeight, ground(element)].join();
        const isMarked = isShown && hasText(element) && (seen.get(looks) ?? 0) < 3;
        if (isMarked) seen.set(looks, (seen.get(looks) ?? 0) + 1);
        // The parts of a plot are not among the elements of the document.
        element.toggleAttribute("data-look", isMarked || (isShown && element.shadowRoot !== null));
      }
    },

    /** How the data beside a slider or a list look now. */
    look: (control) => {
      let element = control;
      while (element && !element.dataset?.rootId) element = element.parentNode ?? element.host;
      const sum = (data) => new Uint32Array(data.buffer).reduce((sum, pixel) => (sum * 31 + pixel) | 0, 0);
      return figures(element).map((figure) => sum(framePixels(figure))).join();
    },

    /** Elements that a reader would have to scroll sideways for, or never sees. */
    sideways: () => {
      const found = [];
      if (document.scrollingElement.scrollWidth > innerWidth)
        found.push(`the page is ${document.scrollingElement.scrollWidth} px wide in a window of ${innerWidth} px`);
      const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);
      const within = (element) => element && (scrolls(element) || within(element.parentElement));
      for (const element of document.querySelectorAll("article *"))
        if (visible(element) && element.getBoundingClientRect().right > innerWidth + 1 && !within(element)) {
          found.push(`${element.outerHTML.slice(0, 80)} sticks out`);
          break; // what is inside of it sticks out as well
        }
      for (const table of own("table")) {
        let place = table;
        while (place && !scrolls(place)) place = place.parentElement;
        const lost = place ? place.scrollWidth - place.clientWidth : 0;
        if (lost > 1) found.push(`${lost} px of the table "${table.textContent.trim().slice(0, 40)}" are out of sight`);
      }
      for (const text of own(innerWidth < 480 ? ".highlight pre" : "none")) {
        const kind = text.closest(".cell_output") ? "output" : "code";
        const lost = text.scrollWidth - text.clientWidth;
        if (lost > 1) found.push(`${lost} px of the ${kind} "${text.textContent.trim().slice(0, 40)}" are out of sight`);
      }
      return found;
    },
  };
})();
