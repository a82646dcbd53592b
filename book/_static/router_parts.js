/* What the router microscope draws of a recording: loads of the experts square by square, a text with
   the experts of each token, charts over the steps, and the numbers of the step shown. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, drawn } = ml.parts;
  const EDGES = [0.25, 0.5, 0.8, 1.25, 2, 4, 8]; // of load over mean, between the eight colours
  const NAMES = [
    "under ¼",
    "¼ to ½",
    "½ to 0.8",
    "0.8 to 1¼: even",
    "1¼ to 2",
    "2 to 4",
    "4 to 8",
    "over 8",
  ];
  const CHARTS = [
    { key: "loss_nats", label: "Held-out loss, nats a token", of: (v) => v },
    {
      key: "entropy",
      label: "Entropy of loads, 1 is even",
      of: (v, layer) => v[layer],
      low: 0,
      high: 1,
    },
    { key: "max_over_mean", label: "Largest load over mean", of: (v, layer) => v[layer], low: 1 },
    {
      key: "chosen_share",
      label: "Share of the scores on the chosen",
      of: (v, layer) => v[layer],
      low: 0,
    },
  ];
  const CELL = { width: 9, height: 20 };

  const layersOf = (trace) => Object.values(trace.methods)[0].counts[0].length;
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const band = (ratio) => EDGES.filter((edge) => ratio >= edge).length;
  const plain = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

  /* A drawn node in its place */
  function put(parent, name, attributes, text) {
    const node = drawn(name, attributes, ...(text === undefined ? [] : [text]));
    parent.append(node);
    return node;
  }

  const canvas = (width, height, style) =>
    drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: style, role: "img" });

  /* Experts across, layers down: one rectangle each, coloured by `paint` when a frame is shown */
  function grid(trace, label) {
    const [left, top] = [16, 2];
    const width = left + CELL.width * trace.num_experts;
    const numLayers = layersOf(trace);
    const height = top + CELL.height * numLayers + 14;
    const svg = canvas(width, height, "ml-grid");
    const cells = [];
    for (let layer = 0; layer < numLayers; layer++) {
      put(
        svg,
        "text",
        { x: left - 4, y: top + CELL.height * (layer + 0.7), "text-anchor": "end" },
        String(layer + 1),
      );
      cells.push(
        Array.from({ length: trace.num_experts }, (_, expert) =>
          put(svg, "rect", {
            x: left + CELL.width * expert,
            y: top + CELL.height * layer,
            width: CELL.width - 1,
            height: CELL.height - 1,
          }),
        ),
      );
    }
    const foot = height - 3;
    put(svg, "text", { x: left, y: foot }, "expert 0");
    put(svg, "text", { x: width, y: foot, "text-anchor": "end" }, String(trace.num_experts - 1));
    const help = "Arrow keys read a square, and so does the pointer.";
    const readout = element("output", { class: "ml-value", "aria-live": "polite" }, help);
    const holder = element("div", {
      class: "ml-squares",
      tabindex: "0",
      role: "application",
      "aria-label": `${label}, square by square. ${help}`,
    });
    holder.append(svg);
    let [at, value] = [null, () => ""];
    const look = (layer, expert) => {
      if (at) cells[at[0]][at[1]].classList.remove("ml-at");
      at = [
        Math.min(Math.max(layer, 0), numLayers - 1),
        Math.min(Math.max(expert, 0), trace.num_experts - 1),
      ];
      cells[at[0]][at[1]].classList.add("ml-at");
      readout.textContent = `Layer ${at[0] + 1}, expert ${at[1]}: ${value(...at)}`;
    };
    cells.forEach((row, layer) =>
      row.forEach((cell, expert) =>
        cell.addEventListener("pointerenter", () => look(layer, expert)),
      ),
    );
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    holder.addEventListener("keydown", (event) => {
      if (!(event.key in moves)) return;
      event.preventDefault();
      const [down, right] = at ? moves[event.key] : [0, 0]; // the first key goes to the first square
      look((at?.[0] ?? 0) + down, (at?.[1] ?? 0) + right);
    });
    return {
      nodes: [holder, readout],
      show(paint, told, says) {
        cells.forEach((row, layer) => row.forEach((cell, expert) => paint(cell, layer, expert)));
        svg.setAttribute("aria-label", `${label}. ${told}`);
        value = says;
        if (at) look(...at);
      },
    };
  }

  /* A way of balancing with the coefficient of its loss, where it has one */
  const titled = ({ name, coefficient }) => (coefficient ? `${name}, ${coefficient}` : name);

  const headed = (what, key, method, ...children) =>
    element(
      "section",
      { class: `ml-${key}`, "aria-label": `${what}, ${method.name}` },
      element(
        "p",
        { class: "ml-title" },
        element("span", { class: `ml-swatch ml-swatch-${key}` }),
        titled(method),
      ),
      ...children,
    );

  /* Loads, and selection biases where there are any */
  function maps(trace, [key, method]) {
    const load = grid(trace, `Loads of the experts, ${method.name}`);
    const root = headed("Loads", key, method, ...load.nodes);
    const most = method.bias ? Math.max(...method.bias.flat(2).map(Math.abs)) || 1 : 1;
    const bias = method.bias ? grid(trace, "Selection biases") : null;
    if (bias)
      root.append(
        element("p", { class: "ml-note" }, `selection biases, to ±${most.toFixed(2)}`),
        ...bias.nodes,
      );
    return {
      root,
      show(frame) {
        const counts = method.counts[frame];
        load.show(
          (cell, l, e) => {
            const ratio = (counts[l][e] * trace.num_experts) / sum(counts[l]);
            cell.setAttribute("class", ratio === 0 ? "ml-idle" : `ml-load-${band(ratio)}`);
          },
          summary(trace, method, frame),
          (l, e) => {
            const all = sum(counts[l]);
            const ratio = (counts[l][e] * trace.num_experts) / all;
            return `${plain(ratio)} times the mean load, ${counts[l][e].toLocaleString("en")} of ${all.toLocaleString("en")} choices`;
          },
        );
        if (!bias) return;
        bias.show(
          (cell, l, e) => {
            const value = method.bias[frame][l][e];
            cell.setAttribute("class", value >= 0 ? "ml-raised" : "ml-lowered");
            cell.style.fillOpacity = String(0.04 + (0.96 * Math.abs(value)) / most);
          },
          "Raised, blue, for experts with too few tokens; lowered, orange, for those with too many.",
          (l, e) => `selection bias ${method.bias[frame][l][e].toFixed(4).replace("-", "−")}`,
        );
      },
    };
  }

  /* The fixed text: under each token the experts that it goes to, the first of them its colour */
  function choices(trace, [key, method]) {
    const text = element("p", { class: "ml-text" });
    const words = trace.text.map((token) => {
      const number = element("span", { class: "ml-number" });
      const word = element(
        "span",
        { class: "ml-word" },
        token.replace(/\n/g, "↵").replace(/ /g, "·"),
      );
      const both = element("span", { class: "ml-token" }, word, number);
      text.append(both);
      if (token.includes("\n")) text.append(element("br"));
      return { both, number };
    });
    return {
      root: headed("Experts of the text", key, method, text),
      show(frame, layer) {
        const digits = method.text[frame][layer];
        const k = trace.num_active_experts;
        words.forEach(({ both, number }, i) => {
          const chosen = [...digits.slice(i * k, i * k + k)].map((digit) => parseInt(digit, 36));
          number.textContent = chosen.join(" ");
          both.style.setProperty("--hue", String((chosen[0] * 360) / trace.num_experts));
        });
      },
    };
  }

  function summary(trace, method, frame) {
    const busiest = method.max_over_mean[frame].map(plain).join(", ");
    return `Busiest expert by layer ${busiest} times the mean; ${sum(method.idle_experts[frame])} of ${layersOf(trace) * trace.num_experts} experts idle.`;
  }

  /* A chart of all methods over the steps, with a line at the frame shown */
  function chart(trace, spec) {
    const last = trace.steps.length - 1;
    const [width, height, left, right, top, bottom] = [320, 170, 34, 10, 8, 30];
    const svg = canvas(width, height);
    const x = (frame) =>
      left +
      (Math.log1p(trace.steps[frame]) / Math.log1p(trace.steps[last])) * (width - left - right);
    const show = (frame, layer, methods) => {
      svg.replaceChildren();
      const lines = methods.map(([key, m]) => [key, m[spec.key].map((v) => spec.of(v, layer))]);
      const all = lines.flatMap(([, values]) => values);
      const low = spec.low ?? Math.min(...all);
      const high = spec.high ?? Math.max(...all);
      const y = (v) => height - bottom - ((v - low) / (high - low || 1)) * (height - top - bottom);
      for (const value of [low, (low + high) / 2, high]) {
        put(svg, "line", {
          x1: left,
          x2: width - right,
          y1: y(value),
          y2: y(value),
          class: "ml-rule",
        });
        put(svg, "text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, plain(value));
      }
      for (const step of [0, 3, 10, 30, 100, 300, 1000].filter((s) => s <= trace.steps[last])) {
        const at =
          left + (Math.log1p(step) / Math.log1p(trace.steps[last])) * (width - left - right);
        put(svg, "text", { x: at, y: height - bottom + 14, "text-anchor": "middle" }, String(step));
      }
      put(svg, "text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "step");
      put(svg, "line", {
        x1: x(frame),
        x2: x(frame),
        y1: top,
        y2: height - bottom,
        class: "ml-now",
      });
      for (const [key, values] of lines) {
        put(svg, "path", {
          d: values.map((v, f) => `${f ? "L" : "M"}${x(f).toFixed(1)} ${y(v).toFixed(1)}`).join(""),
          class: `ml-line ml-line-${key}`,
        });
        put(svg, "circle", {
          cx: x(frame),
          cy: y(values[frame]),
          r: 3.5,
          class: `ml-dot ml-line-${key}`,
        });
      }
      const now = lines
        .map(([key, values]) => `${trace.methods[key].name} ${plain(values[frame])}`)
        .join(", ");
      svg.setAttribute(
        "aria-label",
        `${spec.label}, over the steps of training. At step ${trace.steps[frame]}: ${now}.`,
      );
    };
    return {
      root: element("figure", { class: "ml-chart" }, element("figcaption", {}, spec.label), svg),
      show,
    };
  }

  function numbers() {
    const body = element("tbody");
    const heads = ["Balancing", "Loss", "Entropy", "Largest / mean", "Idle", "Score of chosen"];
    const root = element(
      "div",
      {
        class: "ml-scroll",
        tabindex: "0",
        role: "region",
        "aria-label": "Numbers of the step shown",
      },
      element(
        "table",
        { class: "ml-answers" },
        element(
          "thead",
          {},
          element("tr", {}, ...heads.map((h) => element("th", { scope: "col" }, h))),
        ),
        body,
      ),
    );
    return {
      root,
      show(frame, layer, methods) {
        body.replaceChildren(
          ...methods.map(([key, m]) =>
            element(
              "tr",
              { class: `ml-${key}` },
              element(
                "th",
                { scope: "row" },
                element("span", { class: `ml-swatch ml-swatch-${key}` }),
                titled(m),
              ),
              ...[
                m.loss_nats[frame].toFixed(3),
                m.entropy[frame][layer].toFixed(3),
                plain(m.max_over_mean[frame][layer]),
                String(m.idle_experts[frame][layer]),
                m.chosen_share[frame][layer].toFixed(3),
              ].map((c) => element("td", {}, c)),
            ),
          ),
        );
      },
    };
  }

  function key() {
    const items = [["ml-key-idle", "idle"], ...NAMES.map((name, i) => [`ml-key-load-${i}`, name])];
    return element(
      "ul",
      { class: "ml-key", "aria-label": "Load over the mean load" },
      ...items.map(([style, name]) => element("li", { class: style }, name)),
    );
  }

  ml.routerParts = { CHARTS, chart, choices, key, maps, numbers, titled };
})();
