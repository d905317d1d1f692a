/* Play the recorded runs of a page: which point was evaluated when, and by which worker.
 *
 * A cell's output has a run as JSON: the bounds, the points as [x, y, worker, began, ended], and
 * the values of the function on a fine mesh where a uniform grid shall race. Every picture is an
 * SVG stretched over its box, and all that changes in it is the outline of its paths.
 */
(() => {
  const SECONDS = 8; // a run takes as long here, whatever it took
  const STEPS = 200; // of the slider
  const SIDE = 1000; // of each picture, in its own units
  const MARGIN = 40;

  const make = (tag, attributes, ...children) => {
    const element = /^(svg|path)$/.test(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  /* A picture, and a function for the outline of each of its paths. */
  function picture(label, ...names) {
    const svg = make("svg", {
      role: "img",
      "aria-label": label,
      viewBox: `0 0 ${SIDE} ${SIDE}`,
      preserveAspectRatio: "none",
    });
    const draw = {};
    for (const name of names) {
      const path = make("path", { class: `replay-${name}`, "vector-effect": "non-scaling-stroke" });
      svg.append(path);
      draw[name] = (outline) => path.setAttribute("d", outline);
    }
    return { svg, draw };
  }

  // -- What is known at a time --------------------------------------------------

  /* The value at x of the curve through points that are sorted by x. */
  function between(points, x) {
    let low = 0, high = points.length - 1;
    if (x <= points[low][0]) return points[low][1];
    if (x >= points[high][0]) return points[high][1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] <= x) low = middle;
      else high = middle;
    }
    const [[x0, y0], [x1, y1]] = [points[low], points[high]];
    return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
  }

  const uniform = (count, [low, high], function_) =>
    Array.from({ length: count }, (_, i) => {
      const x = count > 1 ? low + ((high - low) * i) / (count - 1) : (low + high) / 2;
      return [x, function_(x)];
    });

  const meanError = (points, truth) =>
    truth.reduce((sum, [x, y]) => sum + Math.abs(between(points, x) - y), 0) / truth.length;

  // -- The player ---------------------------------------------------------------

  function build(figure) {
    const run = JSON.parse(figure.querySelector("script").textContent);
    const points = run.points;
    const end = Math.max(...points.map((point) => point[4]));
    const truth = run.truth && uniform(run.truth.length, run.bounds, () => 0).map(([x], i) => [x, run.truth[i]]);
    const values = truth ? run.truth : points.map((point) => point[1]);
    const [bottom, top] = [Math.min(...values), Math.max(...values)];

    const room = SIDE - 2 * MARGIN;
    const across = (x) => (MARGIN + (room * (x - run.bounds[0])) / (run.bounds[1] - run.bounds[0])).toFixed(1);
    const up = (y) => (SIDE - MARGIN - (room * (y - bottom)) / (top - bottom || 1)).toFixed(1);
    const dots = (some) => some.map(([x, y]) => `M${across(x)} ${up(y)}h.01`).join("");
    const curve = (some) => some.map(([x, y], i) => `${i ? "L" : "M"}${across(x)} ${up(y)}`).join("");

    // A picture of points, and a function that shows some of them.
    function plot(name, label) {
      const { svg, draw } = picture(label, "truth", "pending", "curve", "dots", "new");
      if (truth) draw.truth(curve(truth));
      const title = make("p", { class: "replay-title" });
      const axis = make("p", { class: "replay-axis", "aria-hidden": "true" });
      for (const bound of run.bounds) axis.append(make("span", {}, `x = ${bound}`.replace("-", "−")));
      return {
        box: make("div", { class: `replay-plot replay-${name.split(" ")[0]}` }, title, svg, axis),
        show(some, fresh, pending) {
          draw.curve(curve(some));
          draw.dots(dots(some));
          draw.new(dots(fresh));
          draw.pending(pending.map(([x]) => `M${across(x)} ${MARGIN / 2}V${SIDE - MARGIN / 2}`).join(""));
          const error = truth && some.length ? `, mean error ${meanError(some, truth).toPrecision(2)}` : "";
          title.replaceChildren(make("b", {}, name), `: ${some.length} points${error}`);
        },
      };
    }

    // The times at which a worker computed, and a function that shows them up to a time.
    function lane(worker) {
      const own = points.filter((point) => point[2] === worker);
      const { svg, draw } = picture(`When worker ${worker + 1} computed`, "lane", "busy", "now");
      draw.lane(`M0 0H${SIDE}V${SIDE}H0Z`);
      const share = make("span", {});
      return {
        row: make("div", { class: "replay-row" }, make("span", {}, `worker ${worker + 1}`), svg, share),
        show(now) {
          const seen = own.filter((point) => point[3] < now);
          const at = (time) => ((SIDE * Math.min(time, now)) / end).toFixed(1);
          // A hair of space between two evaluations, so that they can be counted.
          draw.busy(seen.map(([, , , began, ended]) => `M${at(began)} 0H${Math.max(at(ended) - 1.5, at(began))}V${SIDE}H${at(began)}Z`).join(""));
          draw.now(`M${at(now)} 0V${SIDE}`);
          const busy = seen.reduce((sum, point) => sum + Math.min(point[4], now) - point[3], 0);
          share.textContent = now ? `${Math.round((100 * busy) / now)} %` : "";
        },
      };
    }

    const adaptive = plot("adaptive", "The points that adaptive chose, joined by lines");
    const grid = truth && plot("uniform grid", "The same number of points on a uniform grid, joined by lines");
    const workers = new Set(points.map((point) => point[2])).size;
    const lanes = Array.from({ length: workers }, (_, worker) => lane(worker));

    const button = make("button", { type: "button" });
    const slider = make("input", {
      // Whole steps: the last of fractions of the run may lie short of its end.
      type: "range", min: 0, max: STEPS, step: 1, "aria-label": "Time of the run",
    });
    const clock = make("output", {});

    function show(now) {
      const known = points.filter((point) => point[4] <= now);
      const sorted = [...known].sort((a, b) => a[0] - b[0]);
      const running = points.filter((point) => point[3] < now && now < point[4]);
      const fresh = now < end ? known.filter((point) => point[4] > now - end / 30) : [];
      adaptive.show(sorted, fresh, running);
      grid?.show(uniform(known.length, run.bounds, (x) => between(truth, x)), [], []);
      for (const one of lanes) one.show(now);
      slider.value = (now / end) * STEPS;
      slider.setAttribute("aria-valuetext", `${now.toFixed(2)} seconds, ${known.length} points`);
      clock.textContent = `${now.toFixed(2)} s`;
    }

    // -- Time -------------------------------------------------------------------

    let now = end; // the whole run, until the reader wants to see how it came about
    let before = 0; // when the last picture was drawn
    let next = 0; // the request for the next picture; 0 while nothing moves

    const seek = (time) => {
      now = Math.min(Math.max(time, 0), end);
      show(now);
      button.textContent = next ? "Pause" : now < end ? "Play" : "Play again";
    };
    const pause = () => {
      cancelAnimationFrame(next);
      next = 0;
      seek(now);
    };
    const frame = (time) => {
      const reached = now + (Math.max(time - before, 0) / 1000 / SECONDS) * end;
      before = time;
      next = reached < end ? requestAnimationFrame(frame) : 0;
      seek(reached);
    };
    const play = () => {
      if (now >= end) now = 0;
      before = performance.now();
      next = requestAnimationFrame(frame);
      seek(now);
    };

    button.addEventListener("click", () => (next ? pause() : play()));
    slider.addEventListener("input", () => {
      const chosen = (slider.value / STEPS) * end;
      pause();
      seek(chosen);
    });

    figure.prepend(
      make("div", { class: "replay-plots" }, adaptive.box, ...(grid ? [grid.box] : [])),
      make("div", { class: "replay-lanes" }, ...lanes.map((one) => one.row)),
      make("div", { class: "replay-controls" }, button, slider, clock),
    );
    seek(end);

    // By itself it plays once, when it is first seen, and for nobody who asked for less motion.
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const watch = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      watch.disconnect();
      if (now === end && !next) play();
    }, { threshold: 0.6 });
    watch.observe(figure);
  }

  for (const figure of document.querySelectorAll("figure.replay")) build(figure);
})();
