/* The router microscope: plays the recording of router-data.js in every <div data-router>. The
   state is one frame and one layer; everything shown is drawn anew from them. No library. */
"use strict";

(() => {
  const { address, remember } = window.moeLeverage.parts;
  const HERE = document.currentScript?.src;
  const KEYS = ["step", "layer"]; // of the address: steps done, and the layer from 1
  let [trace, methods, numLayers, last] = []; // known once the recording is there
  const SVG = "http://www.w3.org/2000/svg";
  const FRAME_MILLISECONDS = 180;
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

  function element(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function drawn(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }

  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const band = (ratio) => EDGES.filter((edge) => ratio >= edge).length;
  const plain = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

  /* The recording, loaded when a microscope comes near the screen: it is most of the page's weight */
  function load() {
    const script = element("script", { src: new URL("router-data.js", HERE).href });
    return new Promise((done, failed) => {
      script.addEventListener("load", done);
      script.addEventListener("error", failed);
      document.head.append(script);
    });
  }

  function know(recording) {
    trace = recording;
    methods = Object.entries(trace.methods);
    numLayers = methods[0][1].counts[0].length;
    last = trace.steps.length - 1;
  }

  /* Experts across, layers down: one rectangle each, coloured by `paint` when a frame is shown */
  function grid(label) {
    const [left, top] = [16, 2];
    const width = left + CELL.width * trace.num_experts;
    const height = top + CELL.height * numLayers + 14;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("class", "ml-grid");
    svg.setAttribute("role", "img");
    const cells = [];
    for (let layer = 0; layer < numLayers; layer++) {
      drawn(
        svg,
        "text",
        { x: left - 4, y: top + CELL.height * (layer + 0.7), "text-anchor": "end" },
        String(layer + 1),
      );
      cells.push(
        Array.from({ length: trace.num_experts }, (_, expert) =>
          drawn(svg, "rect", {
            x: left + CELL.width * expert,
            y: top + CELL.height * layer,
            width: CELL.width - 1,
            height: CELL.height - 1,
          }),
        ),
      );
    }
    const foot = height - 3;
    drawn(svg, "text", { x: left, y: foot }, "expert 0");
    drawn(svg, "text", { x: width, y: foot, "text-anchor": "end" }, String(trace.num_experts - 1));
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

  const headed = (key, method, ...children) =>
    element(
      "section",
      { class: `ml-${key}`, "aria-label": method.name },
      element(
        "p",
        { class: "ml-title" },
        element("span", { class: `ml-swatch ml-swatch-${key}` }),
        method.name,
      ),
      ...children,
    );

  /* Loads, and selection biases where there are any */
  function maps([key, method]) {
    const load = grid(`Loads of the experts, ${method.name}`);
    const root = headed(key, method, ...load.nodes);
    const most = method.bias ? Math.max(...method.bias.flat(2).map(Math.abs)) || 1 : 1;
    const bias = method.bias ? grid("Selection biases") : null;
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
          summary(method, frame),
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
  function choices([key, method]) {
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
      root: headed(key, method, text),
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

  function summary(method, frame) {
    const busiest = method.max_over_mean[frame].map(plain).join(", ");
    return `Busiest expert by layer ${busiest} times the mean; ${sum(method.idle_experts[frame])} of ${numLayers * trace.num_experts} experts idle.`;
  }

  /* A chart of all methods over the steps, with a line at the frame shown */
  function chart(spec) {
    const [width, height, left, right, top, bottom] = [320, 170, 34, 10, 8, 30];
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "img");
    const x = (frame) =>
      left +
      (Math.log1p(trace.steps[frame]) / Math.log1p(trace.steps[last])) * (width - left - right);
    const show = (frame, layer) => {
      svg.replaceChildren();
      const lines = methods.map(([key, m]) => [key, m[spec.key].map((v) => spec.of(v, layer))]);
      const all = lines.flatMap(([, values]) => values);
      const low = spec.low ?? Math.min(...all);
      const high = spec.high ?? Math.max(...all);
      const y = (v) => height - bottom - ((v - low) / (high - low || 1)) * (height - top - bottom);
      for (const value of [low, (low + high) / 2, high]) {
        drawn(svg, "line", {
          x1: left,
          x2: width - right,
          y1: y(value),
          y2: y(value),
          class: "ml-rule",
        });
        drawn(svg, "text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, plain(value));
      }
      for (const step of [0, 3, 10, 30, 100, 300, 1000].filter((s) => s <= trace.steps[last])) {
        const at =
          left + (Math.log1p(step) / Math.log1p(trace.steps[last])) * (width - left - right);
        drawn(
          svg,
          "text",
          { x: at, y: height - bottom + 14, "text-anchor": "middle" },
          String(step),
        );
      }
      drawn(svg, "text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "step");
      drawn(svg, "line", {
        x1: x(frame),
        x2: x(frame),
        y1: top,
        y2: height - bottom,
        class: "ml-now",
      });
      for (const [key, values] of lines) {
        drawn(svg, "path", {
          d: values.map((v, f) => `${f ? "L" : "M"}${x(f).toFixed(1)} ${y(v).toFixed(1)}`).join(""),
          class: `ml-line ml-line-${key}`,
        });
        drawn(svg, "circle", {
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
      show(frame, layer) {
        body.replaceChildren(
          ...methods.map(([key, m]) =>
            element(
              "tr",
              { class: `ml-${key}` },
              element(
                "th",
                { scope: "row" },
                element("span", { class: `ml-swatch ml-swatch-${key}` }),
                m.name,
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

  function build(root, place) {
    const id = `router-${place}`;
    const slider = element("input", {
      type: "range",
      id: `${id}-step`,
      min: "0",
      max: String(last),
      step: "1",
      value: String(last),
    });
    const layers = element("select", { id: `${id}-layer` });
    for (let l = 0; l < numLayers; l++)
      layers.append(element("option", { value: String(l) }, String(l + 1)));
    layers.value = String(numLayers - 1);
    const play = element("button", { type: "button" }, "▶ Play");
    const state = element("output", { for: `${id}-step ${id}-layer`, "aria-live": "polite" });
    const [loads, table, charts, texts] = [
      methods.map(maps),
      numbers(),
      CHARTS.map(chart),
      methods.map(choices),
    ];
    const parts = [...loads, table, ...charts, ...texts];
    const side = (style, these) =>
      element("div", { class: style }, ...these.map((part) => part.root));
    root.classList.add("ml-calculator", "ml-router");
    root.replaceChildren(
      element(
        "div",
        { class: "ml-controls" },
        play,
        element("label", { for: slider.id, class: "ml-slider" }, "Step of training", slider),
        element("label", { for: layers.id }, "Layer of charts and text", layers),
      ),
      state,
      key(),
      side("ml-panels", loads),
      table.root,
      side("ml-charts", charts),
      element(
        "p",
        { class: "ml-note" },
        "A fixed text in the chosen layer: under each token its two experts.",
      ),
      side("ml-panels", texts),
    );
    let timer = 0;

    function update() {
      const [frame, layer] = [Number(slider.value), Number(layers.value)];
      const step = trace.steps[frame];
      slider.setAttribute("aria-valuetext", `step ${step} of ${trace.steps[last]}`);
      state.textContent = `After ${step} of ${trace.steps[last]} steps, ${(step * trace.batch_tokens).toLocaleString("en")} tokens; layer ${layer + 1}.`;
      parts.forEach((part) => part.show(frame, layer));
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "▶ Play";
      state.setAttribute("aria-live", "polite");
      keep();
    }

    function start() {
      if (Number(slider.value) === last) slider.value = "0";
      state.setAttribute("aria-live", "off"); // a reader would never be done with the last frame
      play.textContent = "❚❚ Pause";
      timer = setInterval(() => {
        slider.value = String(Number(slider.value) + 1);
        update();
        if (Number(slider.value) === last) stop();
      }, FRAME_MILLISECONDS);
    }

    /* Into the address when the reader rests: not each picture of a film */
    function keep() {
      const [frame, layer] = [Number(slider.value), Number(layers.value)];
      const step = frame === last ? "" : trace.steps[frame];
      remember(KEYS, { step, layer: layer === numLayers - 1 ? "" : layer + 1 });
    }

    function follow() {
      const given = address();
      const step = given.step === undefined ? trace.steps[last] : Number(given.step);
      const far = trace.steps.map((s) => Math.abs(s - step));
      const frame = Number.isFinite(step) ? far.indexOf(Math.min(...far)) : last;
      const layer = Number(given.layer) - 1;
      slider.value = String(frame);
      layers.value = String(
        layer >= 0 && layer < numLayers && layer % 1 === 0 ? layer : numLayers - 1,
      );
      update();
    }

    play.addEventListener("click", () => {
      if (timer) stop();
      else {
        start();
        update();
      }
    });
    slider.addEventListener("input", () => {
      if (timer) stop();
      update();
      keep();
    });
    layers.addEventListener("change", () => {
      update();
      keep();
    });
    window.addEventListener("hashchange", follow);
    follow();
  }

  /* Build every microscope once one of them is near the screen */
  function watch(roots) {
    const near = new IntersectionObserver(
      async (seen) => {
        if (!seen.some((one) => one.isIntersecting)) return;
        near.disconnect();
        try {
          await load();
          know(window.moeRouter);
          roots.forEach(build);
        } catch {
          const said =
            "The recording could not be loaded; the figure and the table below stand in for it.";
          roots.forEach((root) => root.replaceChildren(element("p", { role: "alert" }, said)));
        }
      },
      { rootMargin: "600px" },
    );
    roots.forEach((root) => near.observe(root));
  }

  document.addEventListener("DOMContentLoaded", () =>
    watch([...document.querySelectorAll("[data-router]")]),
  );
})();
