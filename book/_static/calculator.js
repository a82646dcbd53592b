/* The leverage calculator: a form, a table of answers and a landscape, built into every
   <div class="ml-calculator">. No library, no request; the state of the form is the page's address. */
"use strict";

(function () {
  const ml = window.moeLeverage;
  const LEVEL = 0.9;
  const SVG = "http://www.w3.org/2000/svg";
  const BANDS = [1, 1.5, 2, 3, 4, 5, 7]; // EL at the edges of the eight colours
  const GRID = { a: [0.005, 1], g: [1, 32], columns: 44, rows: 22 };

  const AXES = [
    { key: "C", label: "Training compute C", unit: "FLOPs", low: 1e10, high: 1e27, start: 1e22 },
    { key: "A", label: "Activation ratio A", unit: "0 to 1", low: 0.001, high: 1, start: 0.031 },
    { key: "G", label: "Granularity G", unit: "2 d_model / d_expert", low: 0.25, high: 128, start: 12 },
  ];
  const SHAPE = [
    ["num_layers", "Layers", 1], ["num_dense_layers", "of them dense first", 0],
    ["d_model", "Width d_model", 1], ["num_heads", "Heads", 1],
    ["num_kv_heads", "Key-value heads", 1], ["d_head", "Head width", 1],
    ["num_experts", "Routed experts E", 0], ["num_active_experts", "active E_a", 0],
    ["num_shared_experts", "shared E_s", 0], ["d_expert", "Expert width", 0],
    ["d_ffn", "Dense FFN width", 0], ["vocab_size", "Vocabulary", 1],
    ["sequence_length", "Sequence length", 1], ["num_tokens", "Training tokens D", 1],
  ].map(([key, label, low]) => ({ key, label, low, high: 1e16, whole: true }));

  function element(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function drawn(name, attributes) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  function large(x) {
    if (!isFinite(x)) return "none";
    let exponent = Math.floor(Math.log10(Math.abs(x)));
    if (exponent >= -3 && exponent < 5) return String(Number(x.toPrecision(3)));
    let digits = (x / Math.pow(10, exponent)).toFixed(2);
    if (digits === "10.00") { digits = "1.00"; exponent += 1; }
    const raised = String(Math.abs(exponent)).replace(/\d/g, (d) => SUPERSCRIPTS[d]);
    return `${digits} × 10${exponent < 0 ? "⁻" : ""}${raised}`;
  }

  /* "1e22", "3.2 × 10^21" or "12,000" as a number; NaN when it is none */
  function parse(text) {
    const plain = text.trim().replace(/[\s,_]/g, "").replace(/[×x*]10\^?/i, "e");
    return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
  }

  function complaint(field, value) {
    if (!isFinite(value)) return `${field.label}: not a number. Write 1e22 or 0.031.`;
    if (value < field.low || value > field.high) {
      return `${field.label} = ${large(value)}: must be from ${large(field.low)} to ${large(field.high)}.`;
    }
    if (field.whole && !Number.isInteger(value)) return `${field.label} = ${value}: must be a whole number.`;
    return "";
  }

  function contradiction(m) {
    if (m.num_heads % m.num_kv_heads) return "Key-value heads must divide heads.";
    if (!m.num_experts) return m.d_ffn ? "" : "A dense model needs a dense FFN width.";
    if (m.num_active_experts < 1) return "active E_a must be at least 1 when there are experts.";
    if (m.num_active_experts > m.num_experts) return "active E_a cannot exceed the routed experts E.";
    if (m.num_dense_layers >= m.num_layers) return "Dense first layers leave no MoE layer.";
    if (m.num_dense_layers && !m.d_ffn) return "Dense first layers need a dense FFN width.";
    return m.d_expert ? "" : "Expert width must be positive.";
  }

  function field(root, spec, prefix) {
    const id = `${prefix}-${spec.key}`;
    const input = element("input", {
      id, name: spec.key, type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false",
      "aria-describedby": `${prefix}-problem`,
    });
    const unit = spec.unit ? [element("span", { class: "ml-unit" }, spec.unit)] : [];
    root.append(element("label", { for: id }, spec.label, ...unit, input));
    return input;
  }

  function build(root, number) {
    const full = root.dataset.calculator !== "small";
    const prefix = `calculator-${number}`;
    const inputs = {};
    const form = element("form", { class: "ml-form", "aria-label": "Leverage calculator" });
    form.addEventListener("submit", (event) => event.preventDefault());

    const preset = element("select", { id: `${prefix}-preset`, name: "preset" });
    preset.append(element("option", { value: "" }, "own values"));
    const presets = ml.data.presets.filter((p) => full || !p.shape);
    presets.forEach((p, i) => preset.append(element("option", { value: String(i) }, p.name)));
    form.append(element("label", { for: preset.id }, "Preset", preset));

    const axes = element("fieldset", {}, element("legend", {}, "Axes of the law"));
    AXES.forEach((spec) => (inputs[spec.key] = field(axes, spec, prefix)));
    form.append(axes);

    let shaped = null;
    if (full) {
      shaped = element("input", { type: "checkbox", id: `${prefix}-shaped`, name: "shaped" });
      const toggle = element("label", { for: shaped.id, class: "ml-toggle" }, shaped, "From a model's shape");
      const box = element("fieldset", { class: "ml-shape" }, element("legend", {}, "Shape"));
      SHAPE.forEach((spec) => (inputs[spec.key] = field(box, spec, prefix)));
      form.append(toggle, box);
    }

    const problem = element("p", { id: `${prefix}-problem`, class: "ml-problem", role: "alert" });
    const headline = element("output", { class: "ml-headline", "aria-live": "polite" });
    const warning = element("p", { class: "ml-warning", role: "status" });
    const answers = element("table", { class: "ml-answers" });
    const map = element("div", { class: "ml-landscape" });
    root.replaceChildren(form, element("div", { class: "ml-results" }, problem, headline, warning,
      element("div", { class: "ml-scroll", tabindex: "0", role: "region", "aria-label": "Answers" }, answers), map));

    const isShaped = () => Boolean(shaped && shaped.checked);

    function read() {
      const specs = isShaped() ? SHAPE : AXES;
      const values = {};
      for (const spec of specs) {
        values[spec.key] = parse(inputs[spec.key].value);
        const wrong = complaint(spec, values[spec.key]);
        inputs[spec.key].toggleAttribute("aria-invalid", Boolean(wrong));
        if (wrong) return { wrong };
      }
      if (!isShaped()) return values;
      const wrong = contradiction(values);
      if (wrong) return { wrong };
      const { A, G } = ml.axes(values);
      const C = ml.trainingCompute(values, values.sequence_length, values.num_tokens);
      AXES.forEach((spec) => (inputs[spec.key].value = Number({ A, G, C }[spec.key].toPrecision(6))));
      return { A, G, C, shape: values };
    }

    function update() {
      AXES.forEach((spec) => (inputs[spec.key].readOnly = isShaped()));
      if (full) form.querySelector(".ml-shape").hidden = !isShaped();
      const state = read();
      problem.textContent = state.wrong || "";
      root.classList.toggle("ml-invalid", Boolean(state.wrong));
      if (state.wrong) return;
      answer(state, headline, warning, answers);
      landscape(map, state, prefix);
      if (full) remember(state);
    }

    function remember(state) {
      const kept = state.shape || { C: state.C, A: state.A, G: state.G };
      const text = new URLSearchParams(Object.entries(kept).map(([k, v]) => [k, String(v)])).toString();
      history.replaceState(null, "", `#${text}`);
    }

    function fill(values, useShape) {
      if (shaped) shaped.checked = useShape;
      for (const [key, value] of Object.entries(values)) {
        if (inputs[key]) inputs[key].value = Number(value) >= 1e7 ? Number(value).toExponential().replace("+", "") : value;
      }
    }

    preset.addEventListener("change", () => {
      const chosen = presets[Number(preset.value)];
      if (preset.value !== "") fill(chosen.shape || chosen.axes, Boolean(chosen.shape));
      update();
    });
    form.addEventListener("input", (event) => {
      if (event.target !== preset) { preset.value = ""; update(); }
    });

    AXES.forEach((spec) => (inputs[spec.key].value = spec.start));
    const example = ml.data.presets.find((p) => p.shape);
    if (full && example) fill(example.shape, false);
    if (full && location.hash.length > 1) {
      const shared = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
      fill(shared, "num_layers" in shared);
    }
    update();
  }

  function columns(state) {
    const { A, G, C } = state;
    const both = [["Published law", ml.data.published, null], ["Measured law", ml.data.measured, ml.data.samples]];
    return both.filter(([, law]) => law).map(([name, law, samples]) => ({
      name, law, EL: ml.leverage(law, A, G, C), range: ml.interval(samples, A, G, C, LEVEL),
    }));
  }

  function answer(state, headline, warning, table) {
    const sides = columns(state);
    const main = sides[sides.length - 1];
    headline.textContent = main.EL >= 1
      ? `EL = ${main.EL.toFixed(2)}: a dense model needs ${main.EL.toFixed(2)} times the compute for the same loss.`
      : `EL = ${main.EL.toFixed(2)}: a dense model reaches the same loss with less compute.`;
    const missing = sides.length === 1 ? " No interval: none is published, and no measured fit is built in." : "";
    const beyond = ml.outside(ml.data.domain, state.A, state.G, state.C)
      .map((w) => `${w.symbol} outside ${large(w.low)} to ${large(w.high)}`);
    warning.textContent = (beyond.length ? `Extrapolated: ${beyond.join("; ")}.` : "Inside the fitted range.") + missing;
    warning.classList.toggle("ml-outside", beyond.length > 0);

    const published = ml.data.laws;
    const only = (value) => sides.map((_, i) => (i === 0 ? value : "–"));
    const rows = [
      ["Efficiency leverage EL", sides.map((s) => s.EL.toFixed(2) + (s.range ? ` (${s.range[0].toFixed(2)} to ${s.range[1].toFixed(2)})` : ""))],
      ["Dense compute of equal loss, FLOPs", sides.map((s) => large(s.EL * state.C))],
      ["Break-even compute, FLOPs", sides.map((s) => large(ml.breakEvenCompute(s.law, state.A, state.G)))],
      ["Granularity of highest EL", sides.map((s) => large(ml.optimumGranularity(s.law)))],
      ["Learning rate, MoE", only(large(ml.powerLaw(published.learning_rate, state.C)))],
      ["Batch, MoE, tokens", only(large(ml.powerLaw(published.batch_tokens, state.C)))],
      ["Optimal tokens D, MoE", only(large(ml.powerLaw(published.moe_tokens, state.C)))],
      ["Optimal FLOPs a token M, MoE", only(large(ml.powerLaw(published.moe_model, state.C)))],
    ];
    if (state.shape) rows.push(...shapeRows(state, sides, only));
    const head = element("tr", {}, element("th", { scope: "col" }, "Quantity"),
      ...sides.map((s) => element("th", { scope: "col" }, s.name)));
    table.replaceChildren(element("caption", {}, `At C = ${large(state.C)} FLOPs, A = ${large(state.A)}, G = ${large(state.G)}`),
      element("thead", {}, head),
      element("tbody", {}, ...rows.map(([name, cells]) => element("tr", {},
        element("th", { scope: "row" }, name), ...cells.map((c) => element("td", {}, c))))));
  }

  function shapeRows(state, sides, only) {
    const counted = ml.count(state.shape, state.shape.sequence_length);
    return [
      ["Parameters, with vocabulary", only(large(counted.total + counted.vocabulary))],
      ["Parameters without vocabulary N", only(large(counted.total))],
      ["of them active N_a", only(large(counted.active))],
      ["Forward FLOPs a token", only(large(counted.flopsPerToken))],
      ["Equal-loss dense model on the same D, forward FLOPs a token", sides.map((s) => large(s.EL * counted.flopsPerToken))],
    ];
  }

  function landscape(root, state, prefix) {
    const law = ml.data.measured || ml.data.published;
    const [width, height, left, right, bottom] = [460, 250, 42, 20, 36];
    const x = (A) => left + ((Math.log(A / GRID.a[0])) / Math.log(GRID.a[1] / GRID.a[0])) * (width - left - right);
    const y = (G) => (height - bottom) - (Math.log(G / GRID.g[0]) / Math.log(GRID.g[1] / GRID.g[0])) * (height - bottom - 6);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "ml-map" });
    const span = (range, i, n) => range[0] * Math.pow(range[1] / range[0], i / n);
    let best = { EL: 0 };
    for (let i = 0; i < GRID.columns; i++) {
      for (let j = 0; j < GRID.rows; j++) {
        const [a0, a1] = [span(GRID.a, i, GRID.columns), span(GRID.a, i + 1, GRID.columns)];
        const [g0, g1] = [span(GRID.g, j, GRID.rows), span(GRID.g, j + 1, GRID.rows)];
        const [A, G] = [Math.sqrt(a0 * a1), Math.sqrt(g0 * g1)];
        const EL = ml.leverage(law, A, G, state.C);
        if (EL > best.EL) best = { EL, A, G };
        const band = BANDS.filter((edge) => EL >= edge).length;
        svg.append(drawn("rect", { x: x(a0), y: y(g1), width: x(a1) - x(a0) + 0.4, height: y(g0) - y(g1) + 0.4, class: `ml-band-${band}` }));
      }
    }
    for (const A of [0.01, 0.03, 0.1, 0.3, 1]) label(svg, x(A), height - bottom + 15, `${Number((100 * A).toPrecision(2))} %`, "middle");
    for (const G of [1, 2, 4, 8, 16, 32]) label(svg, left - 6, y(G) + 4, String(G), "end");
    label(svg, (left + width) / 2, height - 4, "activation ratio A", "middle");
    const side = label(svg, 0, 0, "granularity G", "middle");
    side.setAttribute("transform", `translate(11 ${(height - bottom) / 2}) rotate(-90)`);
    const inside = (v, range) => Math.min(Math.max(v, range[0]), range[1]);
    svg.append(drawn("circle", { cx: x(inside(state.A, GRID.a)), cy: y(inside(state.G, GRID.g)), r: 6, class: "ml-point" }));
    const text = `At C = ${large(state.C)} FLOPs the law is highest, EL = ${best.EL.toFixed(1)}, at A = ${(100 * best.A).toFixed(1)} % and G = ${best.G.toFixed(0)} on this map; the circle marks the chosen point.`;
    svg.setAttribute("aria-label", text);
    const key = element("ul", { class: "ml-key", "aria-label": "Colours" });
    const names = ["EL < 1", ...BANDS.map((edge, i) => (BANDS[i + 1] ? `${edge} to ${BANDS[i + 1]}` : `over ${edge}`))];
    names.forEach((name, band) => key.append(element("li", { class: `ml-key-${band}` }, name)));
    root.replaceChildren(svg, key, element("p", { class: "ml-map-text", id: `${prefix}-map` }, text));
  }

  function label(svg, x, y, text, anchor) {
    const node = drawn("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    svg.append(node);
    return node;
  }

  ml.calculator = { parse, large };
  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll(".ml-calculator").forEach(build));
})();
