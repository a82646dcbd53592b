/* The published law along one axis, with a slider for each of the other two: what a figure shows at
   a few values, moved. The curve at the first values stays behind it, pale. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, drawn, large, percent, scale, frame } = ml.parts;
  const flops = (C) => `${large(C)} FLOPs`;
  const grain = (G) => String(Number(G.toPrecision(3)));
  /* range of the slider or of the axis, where it starts, and the values that are read out */
  const AXES = {
    A: {
      key: "activation_ratio",
      name: "activation ratio A",
      words: percent,
      range: [0.008, 1],
      start: 3 / 65,
      told: [0.1, 0.031, 0.0117],
    },
    G: {
      key: "granularity",
      name: "granularity G",
      words: grain,
      range: [1, 32],
      start: 2,
      told: [2, 4, 8, 12],
    },
    C: {
      key: "compute",
      name: "training compute C",
      words: flops,
      range: [1e12, 1e24],
      start: 1e20,
    },
  };
  const [STEPS, POINTS, EL] = [240, 120, [0.1, 20]]; // of a slider, of a curve; the heights shown
  const HEIGHT = 300;

  const span = ([low, high], share) => low * (high / low) ** share;
  const share = ([low, high], value) => Math.log(value / low) / Math.log(high / low);

  class Sweep {
    constructor(root) {
      this.root = root;
      this.axis = root.dataset.sweep;
      this.side = ml.data.published;
      this.others = Object.keys(AXES).filter((symbol) => symbol !== this.axis);
      this.at = Object.fromEntries(this.others.map((symbol) => [symbol, AXES[symbol].start]));
      this.first = { ...this.at };
      this.build();
    }

    build() {
      const labels = this.others.map((symbol) => this.slider(symbol));
      this.said = element("p", { class: "ml-said", role: "status" });
      this.plot = element("div", {});
      this.root.classList.add("ml-sweep");
      this.root.replaceChildren(...labels, this.plot, this.said);
      new ResizeObserver(() => this.width !== this.plot.clientWidth && this.draw()).observe(
        this.plot,
      );
      this.draw();
    }

    slider(symbol) {
      const { name, range, words } = AXES[symbol];
      const value = element("span", {}, words(this.at[symbol]));
      const input = element("input", {
        type: "range",
        min: "0",
        max: String(STEPS),
        value: String(Math.round(STEPS * share(range, this.at[symbol]))),
        "aria-label": name,
        "aria-valuetext": words(this.at[symbol]),
      });
      input.addEventListener("input", () => {
        this.at[symbol] = span(range, Number(input.value) / STEPS);
        value.textContent = words(this.at[symbol]);
        input.setAttribute("aria-valuetext", value.textContent);
        this.draw();
      });
      return element("label", {}, `${name}: `, value, input);
    }

    leverage(at, value) {
      const { A, G, C } = { ...at, [this.axis]: value };
      return ml.leverage(this.side.law, A, G, C);
    }

    /* Whether the paper trained models there */
    isInside(at, value) {
      const point = { ...at, [this.axis]: value };
      return Object.entries(AXES).every(([symbol, { key }]) => {
        const [low, high] = this.side.domain[key];
        return point[symbol] >= 0.99 * low && point[symbol] <= 1.01 * high;
      });
    }

    draw() {
      this.width = this.plot.clientWidth;
      const width = Math.min(Math.max(this.width, 260), 640);
      const box = { left: 48, right: width - 12, top: 8, bottom: HEIGHT - 44 };
      const { range, name } = AXES[this.axis];
      const x = scale(range, [box.left, box.right], true);
      const y = scale(EL, [box.bottom, box.top], true);
      const svg = drawn("svg", {
        viewBox: `0 0 ${width} ${HEIGHT}`,
        role: "img",
        "aria-label": `Efficiency leverage by the published law over ${name}`,
      });
      frame(svg, box, x, y, [name, "efficiency leverage EL"]);
      const level = y.place(1);
      svg.append(
        drawn("line", { x1: box.left, x2: box.right, y1: level, y2: level, class: "ml-even" }),
      );
      this.curve(svg, x, y, this.first, "ml-then");
      this.curve(svg, x, y, this.at, "ml-curve");
      this.plot.replaceChildren(svg);
      this.say();
    }

    /* A curve in two pieces of line: whole where models were trained, dotted elsewhere */
    curve(svg, x, y, at, kind) {
      const { range } = AXES[this.axis];
      const values = Array.from({ length: POINTS + 1 }, (_, i) => span(range, i / POINTS));
      const paths = { "": "", " ml-beyond": "" };
      values.slice(1).forEach((value, i) => {
        const [from, to] = [values[i], value];
        const [a, b] = [from, to].map((v) =>
          Math.min(Math.max(this.leverage(at, v), EL[0]), EL[1]),
        );
        const beyond = this.isInside(at, from) && this.isInside(at, to) ? "" : " ml-beyond";
        paths[beyond] += `M${x.place(from)},${y.place(a)}L${x.place(to)},${y.place(b)}`;
      });
      for (const [beyond, d] of Object.entries(paths))
        if (d) svg.append(drawn("path", { d, class: kind + beyond }));
    }

    say() {
      const { told, words } = AXES[this.axis];
      const where = this.others.map(
        (symbol) => `${symbol} = ${AXES[symbol].words(this.at[symbol])}`,
      );
      const values = told.map(
        (value) => `${this.leverage(this.at, value).toFixed(2)} at ${this.axis} = ${words(value)}`,
      );
      const inside = told.some((value) => this.isInside(this.at, value));
      const beyond = inside ? "" : " No model of the paper lies there: the law is extrapolated.";
      this.said.textContent = `With ${where.join(" and ")}: EL = ${values.join(", ")}.${beyond}`;
    }
  }

  for (const root of document.querySelectorAll("[data-sweep]")) new Sweep(root);
})();
