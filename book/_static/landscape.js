/* EL over activation ratio and granularity at one budget: a map whose values can be read with the
   pointer or with the arrow keys, and a point of which can be taken into the form. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, drawn, text, large, percent } = ml.parts;
  const BANDS = [1, 1.5, 2, 3, 4, 5, 7]; // EL at the edges of the eight colours
  const GRID = { a: [0.005, 1], g: [1, 32], columns: 44, rows: 22 };
  const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [460, 250, 42, 20, 6, 36];
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  const span = (range, share) => range[0] * (range[1] / range[0]) ** share;
  const share = (range, value) => Math.log(value / range[0]) / Math.log(range[1] / range[0]);
  const x = (A) => LEFT + share(GRID.a, A) * (WIDTH - LEFT - RIGHT);
  const y = (G) => HEIGHT - BOTTOM - share(GRID.g, G) * (HEIGHT - BOTTOM - TOP);
  const inside = (v, [low, high]) => Math.min(Math.max(v, low), high);
  const middle = (i, j) => ({
    A: span(GRID.a, (i + 0.5) / GRID.columns),
    G: span(GRID.g, (j + 0.5) / GRID.rows),
  });

  const band = (EL) => BANDS.filter((edge) => EL >= edge).length;
  const isSilent = (side, A, G, C) =>
    ml.silence(side, { activation_ratio: A, granularity: G, compute: C }) !== null;

  /* The squares on which the law answers, and the highest of them */
  function squares(side, C) {
    const found = [];
    for (let i = 0; i < GRID.columns; i++)
      for (let j = 0; j < GRID.rows; j++) {
        const { A, G } = middle(i, j);
        if (!isSilent(side, A, G, C))
          found.push({ i, j, A, G, EL: ml.leverage(side.law, A, G, C) });
      }
    return found;
  }

  function drawSquare(svg, { i, j, EL }) {
    const [a0, a1] = [i, i + 1].map((n) => x(span(GRID.a, n / GRID.columns)));
    const [g0, g1] = [j, j + 1].map((n) => y(span(GRID.g, n / GRID.rows)));
    const [width, height] = [a1 - a0 + 0.4, g0 - g1 + 0.4];
    svg.append(drawn("rect", { x: a0, y: g1, width, height, class: `ml-band-${band(EL)}` }));
  }

  function drawFrame(svg) {
    for (const A of [0.01, 0.03, 0.1, 0.3, 1])
      svg.append(text(x(A), HEIGHT - BOTTOM + 15, percent(A)));
    for (const G of [1, 2, 4, 8, 16, 32]) svg.append(text(LEFT - 6, y(G) + 4, String(G), "end"));
    svg.append(text((LEFT + WIDTH) / 2, HEIGHT - 4, "activation ratio A"));
    const upright = text(0, 0, "granularity G");
    upright.setAttribute("transform", `translate(11 ${(HEIGHT - BOTTOM) / 2}) rotate(-90)`);
    svg.append(upright);
  }

  function key() {
    const names = [
      "EL < 1",
      ...BANDS.map((edge, i) => (BANDS[i + 1] ? `${edge} to ${BANDS[i + 1]}` : `over ${edge}`)),
    ];
    const items = names.map((name, i) => element("li", { class: `ml-key-${i}` }, name));
    return element("ul", { class: "ml-key", "aria-label": "Colours" }, ...items);
  }

  /* A map in `root`; `take` is called with the point that a reader chooses on it */
  function make(root, take) {
    const help = "Arrow keys read the map, Enter takes the point; so do pointer and click.";
    const frame = element("div", {
      class: "ml-map-frame",
      tabindex: "0",
      role: "application",
      "aria-label": `Map of EL. ${help}`,
    });
    const words = element("p", { class: "ml-map-text" });
    const readout = element("output", { class: "ml-readout", "aria-live": "polite" }, help);
    root.replaceChildren(frame, readout, key(), words);
    const cursor = drawn("rect", { class: "ml-cursor", hidden: true });
    let [shown, at] = [null, null];

    function point(i, j) {
      at = { i: inside(i, [0, GRID.columns - 1]), j: inside(j, [0, GRID.rows - 1]) };
      const { A, G } = middle(at.i, at.j);
      const { side, state } = shown;
      const [left, right] = [at.i, at.i + 1].map((n) => x(span(GRID.a, n / GRID.columns)));
      const [bottom, top] = [at.j, at.j + 1].map((n) => y(span(GRID.g, n / GRID.rows)));
      const place = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [name, value] of Object.entries(place)) cursor.setAttribute(name, value);
      cursor.removeAttribute("hidden");
      const says = ml[shown.name](side, A, G, state.C, ml.calculator.LEVEL);
      const range = says.rounding_range || says.interval;
      const value =
        says.value === null
          ? ml.calculator.instead(says.silent).word
          : `EL = ${ml.calculator.leverageText(says.value)}${ml.calculator.ranged(range, ml.calculator.leverageText)}`;
      readout.textContent = `A = ${percent(A)}, G = ${large(G)}: ${value}${says.beyond?.length ? ", extrapolated" : ""}`;
    }

    /* The square under a pointer */
    function under(event) {
      const box = frame.firstElementChild.getBoundingClientRect();
      const [u, v] = [
        (event.clientX - box.left) / box.width,
        (event.clientY - box.top) / box.height,
      ];
      const i = ((u * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT)) * GRID.columns;
      const j = ((HEIGHT - BOTTOM - v * HEIGHT) / (HEIGHT - BOTTOM - TOP)) * GRID.rows;
      const isIn = i >= 0 && i < GRID.columns && j >= 0 && j < GRID.rows;
      return isIn ? [Math.floor(i), Math.floor(j)] : null;
    }

    const taken = () => {
      const { A, G } = middle(at.i, at.j);
      take({ A: Number(A.toPrecision(3)), G: Number(G.toPrecision(3)) });
    };
    frame.addEventListener("pointermove", (event) => {
      const place = shown && under(event);
      if (place) point(...place);
    });
    frame.addEventListener("click", (event) => {
      const place = shown && under(event);
      if (!place) return;
      point(...place);
      taken();
    });
    frame.addEventListener("keydown", (event) => {
      if (!shown) return;
      if (event.key === "Enter" && at) taken();
      else if (event.key in STEPS) {
        const [right, up] = STEPS[event.key];
        const far = event.shiftKey ? 5 : 1;
        const own = {
          i: Math.floor(share(GRID.a, inside(shown.state.A, GRID.a)) * GRID.columns),
          j: Math.floor(share(GRID.g, inside(shown.state.G, GRID.g)) * GRID.rows),
        };
        const from = at || own;
        point(from.i + right * far, from.j + up * far);
      } else return;
      event.preventDefault();
    });

    return function show(state, name) {
      const side = ml.data[name];
      const found = squares(side, state.C);
      shown = found.length ? { state, side, name } : null;
      if (!shown) {
        frame.replaceChildren();
        const { word } = ml.calculator.instead(ml.silence(side, { compute: state.C }));
        words.textContent = `Our own law says nothing: ${word}.`;
        return;
      }
      const viewBox = `0 0 ${WIDTH} ${HEIGHT}`;
      const svg = drawn("svg", { viewBox, "aria-hidden": "true", class: "ml-map" });
      found.forEach((square) => drawSquare(svg, square));
      drawFrame(svg);
      const [A, G] = [inside(state.A, GRID.a), inside(state.G, GRID.g)];
      svg.append(cursor, drawn("circle", { cx: x(A), cy: y(G), r: 6, class: "ml-point" }));
      frame.replaceChildren(svg);
      const best = found.reduce((a, b) => (b.EL > a.EL ? b : a));
      const isOn = A === state.A && G === state.G;
      const where = isOn
        ? "marks the chosen point"
        : "stands at the edge nearest to the chosen point";
      words.textContent = `At C = ${large(state.C)} FLOPs the law is highest, EL = ${ml.calculator.leverageText(best.EL)}, at A = ${percent(best.A)} and G = ${best.G.toFixed(0)} on this map; the circle ${where}.`;
      if (at) point(at.i, at.j);
    };
  }

  Object.assign(ml, { landscape: { make, squares } });
})();
