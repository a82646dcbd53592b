/* The leverage calculator: a form, a table of answers and a landscape, built into every
   <div data-calculator>: "full", whose form is the page's address, or "small" for a chapter. No
   library, no request. Each number in the table is a <data> element with all its digits. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const LEVEL = 0.9;
  const SVG = "http://www.w3.org/2000/svg";
  const BANDS = [1, 1.5, 2, 3, 4, 5, 7]; // EL at the edges of the eight colours
  const GRID = { a: [0.005, 1], g: [1, 32], columns: 44, rows: 22 };
  const NOT_HERE = "not at this scale";
  const PASSES = 3; // of training: the forward and two backward

  const number = (key, label, low, high, start) => ({ key, label, low, high, start });
  const whole = (key, label, low) => ({ key, label, low, high: 1e16, whole: true });
  /* each axis of the law, and the ways in which it may be given; the first is the axis itself */
  const AXES = [
    {
      key: "C",
      label: "Training budget",
      ways: [
        { name: "compute", fields: [number("C", "Compute C, FLOPs", 1e10, 1e27, 1e22)] },
        { name: "tokens", fields: [number("D", "Tokens D", 1e3, 1e16)] },
      ],
    },
    {
      key: "A",
      label: "Activation ratio",
      ways: [
        { name: "ratio", fields: [number("A", "Ratio A, 0 to 1", 0.001, 1, 0.031)] },
        {
          name: "experts",
          fields: [
            whole("num_experts", "Routed experts E", 0),
            whole("num_active_experts", "active E_a", 0),
            whole("num_shared_experts", "shared E_s", 0),
          ],
        },
      ],
    },
    {
      key: "G",
      label: "Granularity",
      ways: [
        { name: "ratio", fields: [number("G", "G = 2 d_model / d_expert", 0.25, 128, 12)] },
        {
          name: "widths",
          fields: [whole("d_model", "Width d_model", 1), whole("d_expert", "Expert width", 0)],
        },
      ],
    },
  ];
  const SHAPE = [
    ["num_layers", "Layers", 1],
    ["num_dense_layers", "of them dense first", 0],
    ["d_ffn", "Dense FFN width", 0],
    ["num_heads", "Heads", 1],
    ["num_kv_heads", "Key-value heads", 1],
    ["d_head", "Head width", 1],
    ["vocab_size", "Vocabulary", 1],
    ["sequence_length", "Sequence length", 1],
  ].map(([key, label, low]) => whole(key, label, low));

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
    if (!Number.isFinite(x)) return "none";
    if (x === 0) return "0";
    let exponent = Math.floor(Math.log10(Math.abs(x)));
    if (exponent >= -3 && exponent < 5) return String(Number(x.toPrecision(3)));
    let digits = (x / 10 ** exponent).toFixed(2);
    if (digits === "10.00") {
      digits = "1.00";
      exponent += 1;
    }
    const raised = String(Math.abs(exponent)).replace(/\d/g, (d) => SUPERSCRIPTS[d]);
    return `${digits}\u00a0×\u00a010${exponent < 0 ? "⁻" : ""}${raised}`;
  }
  const leverageText = (x) => (x < 0.01 || x >= 1e4 ? large(x) : x.toFixed(2));

  /* "1e22", "3.2 × 10^21" or "12,000" as a number; NaN when it is none */
  function parse(text) {
    const plain = text
      .trim()
      .replace(/[\s,_]/g, "")
      .replace(/[×x*]10\^?/i, "e");
    return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
  }

  function complaint(field, value) {
    if (!Number.isFinite(value)) return `${field.label}: not a number. Write 1e22 or 0.031.`;
    if (value < field.low || value > field.high) {
      return `${field.label} = ${large(value)}: must be from ${large(field.low)} to ${large(field.high)}.`;
    }
    if (field.whole && !Number.isInteger(value))
      return `${field.label} = ${value}: must be a whole number.`;
    return "";
  }

  /* What is wrong between fields; `m` holds those in use */
  function contradiction(m) {
    if (m.num_layers && m.num_heads % m.num_kv_heads) return "Key-value heads must divide heads.";
    if (m.num_layers && m.num_experts === 0)
      return m.d_ffn ? "" : "A dense model needs a dense FFN width.";
    if (m.num_experts === 0) return "Routed experts E must be at least 1.";
    if (m.num_experts && m.num_active_experts < 1) return "active E_a must be at least 1.";
    if (m.num_active_experts > m.num_experts)
      return "active E_a cannot exceed the routed experts E.";
    if (m.num_dense_layers >= m.num_layers) return "Dense first layers leave no MoE layer.";
    if (m.num_dense_layers && !m.d_ffn) return "Dense first layers need a dense FFN width.";
    return m.d_expert === 0 ? "Expert width must be positive." : "";
  }

  /* The point of the law that the fields in use give, and the model's counts if they give a shape */
  function located(m) {
    const counted = "num_layers" in m ? ml.count(m, m.sequence_length) : null;
    const { A, G } = ml.axes({ num_experts: 1, d_model: 1, ...m });
    const perToken = counted && PASSES * counted.flopsPerToken;
    const C =
      "C" in m
        ? m.C
        : counted
          ? perToken * m.D
          : ml.computeFor(ml.data.published.laws.moe_tokens, m.D);
    return {
      A: "A" in m ? m.A : A,
      G: "G" in m ? m.G : G,
      C,
      counted,
      D: counted ? C / perToken : NaN,
      isDense: Boolean(counted) && !m.num_experts,
    };
  }

  /* What each law there is says of EL, with a range of its own kind, or null for its value */
  function sides({ A, G, C }) {
    const both = [
      ["published", "Published law"],
      ["measured", "Measured law"],
    ];
    return both
      .filter(([key]) => ml.data[key])
      .map(([key, name]) => {
        const said = ml[key](ml.data[key], A, G, C, LEVEL);
        const range = A >= 1 ? null : said.rounding_range || said.interval; // no range by definition
        return { ...ml.data[key], ...said, key, name, range };
      });
  }

  /* Rows of the table: a name, and for each side a value and perhaps its range; a value is null
     where the law is silent at this scale, NaN where there is none */
  function answers(state, by, isFull) {
    const { A, G, C, D, counted, isDense } = state;
    const all = (value) => by.map((side) => ({ value: value(side) }));
    const spread = (factor) =>
      by.map((s) => ({
        value: s.value === null ? null : factor * s.value,
        range: s.range?.map((x) => factor * x),
      }));
    const unless = (fitted, point, value) => (ml.silence(fitted, point) ? null : value);
    const power = (name, at) =>
      all((s) => {
        if (!s.laws[name]) return NaN;
        const compute = at(s);
        return compute === null
          ? null
          : unless(s.laws[name], { compute }, ml.powerLaw(s.laws[name], compute));
      });
    const half = (cells, share = 2) =>
      cells.map(({ value }) => ({ value: value === null ? null : value / share }));
    const once = (value) => by.map((_, i) => ({ value: i ? NaN : value }));
    const evens = (s) => {
      const compute = ml.breakEvenCompute(s.law, A, G);
      return unless(s, { activation_ratio: A, granularity: G, compute }, compute);
    };
    const finest = (s) => {
      const granularity = ml.optimumGranularity(s.law);
      return unless(s, { granularity }, granularity);
    };
    const own = () => C;
    const equal = (s) => (s.value === null ? null : s.value * C);
    const dense = counted ? spread(counted.nonEmbedding) : power("dense_model", equal);
    const rows = [
      ["Efficiency leverage EL", spread(1), leverageText],
      ["Dense compute of equal loss, FLOPs", spread(C)],
    ];
    if (isFull) {
      rows.push(
        [
          counted
            ? "Equal-loss dense model on the same D: M, FLOPs a token"
            : "Equal-loss dense model, optimal M, FLOPs a token",
          dense,
        ],
        ["its parameters, at most M / 2", half(dense)],
      );
      if (!counted) rows.push(["its tokens, optimal D", power("dense_tokens", equal)]);
    }
    rows.push(["Break-even compute, FLOPs", all(evens)]);
    if (!isFull) return rows;
    const scale = power("moe_model", own);
    rows.push(
      ["Granularity of highest EL", all(finest)],
      ["Learning rate, MoE", power("learning_rate", own)],
      ["Batch, MoE, tokens", power("batch_tokens", own)],
      ["Optimal tokens D, MoE", power("moe_tokens", own)],
      ["Optimal FLOPs a token M, MoE", scale],
    );
    if (!counted) {
      rows.push(
        ["its active parameters, at most M / 2", half(scale)],
        ["its parameters, at most M / 2A", half(scale, 2 * A)],
      );
      return rows;
    }
    rows.push(
      ["This model: parameters, with vocabulary", once(counted.total + counted.vocabulary)],
      ["parameters without vocabulary N", once(counted.total)],
      ["of them active N_a", once(counted.active)],
      ["forward FLOPs a token", once(counted.flopsPerToken)],
      ["without logits, M", once(counted.nonEmbedding)],
      ["training tokens D", once(D)],
      ["training compute C, FLOPs", once(C)],
    );
    return isDense ? rows.filter(([name]) => !/Break-even|highest/.test(name)) : rows;
  }

  function control(root, spec, prefix) {
    const id = `${prefix}-${spec.key}`;
    const input = element("input", {
      id,
      name: spec.key,
      type: "text",
      inputmode: "decimal",
      autocomplete: "off",
      spellcheck: "false",
      "aria-describedby": `${prefix}-problem`,
    });
    const label = element("label", { for: id }, spec.label, input);
    root.append(label);
    return { spec, input, label };
  }

  function chooser(id, label, options) {
    const select = element("select", { id });
    options.forEach(([value, text]) => select.append(element("option", { value }, text)));
    return [select, element("label", { for: id }, label, select)];
  }

  /* The form's fields by key, how each axis is given, and whether a whole shape is */
  function makeForm(prefix, isFull) {
    const form = element("form", { class: "ml-form", "aria-label": "Leverage calculator" });
    form.addEventListener("submit", (event) => event.preventDefault());
    const presets = ml.data.presets.filter((p) => isFull || !p.shape);
    const names = [["", "own values"], ...presets.map((p, i) => [String(i), p.name])];
    const [preset, presetLabel] = chooser(`${prefix}-preset`, "Preset", names);
    form.append(presetLabel);
    const [fields, ways] = [{}, {}];
    const add = (root, spec) => (fields[spec.key] = control(root, spec, prefix));
    for (const axis of AXES) {
      if (!isFull) {
        add(form, axis.ways[0].fields[0]);
        continue;
      }
      const box = element("fieldset", {}, element("legend", {}, axis.label));
      const [way, wayLabel] = chooser(
        `${prefix}-${axis.key}-way`,
        "given as",
        axis.ways.map((w) => [w.name, w.name]),
      );
      way.setAttribute("aria-label", `${axis.label} given as`);
      ways[axis.key] = way;
      box.append(wayLabel);
      axis.ways.forEach((w) => w.fields.forEach((spec) => add(box, spec)));
      form.append(box);
    }
    const shaped = element("input", { type: "checkbox", id: `${prefix}-shaped`, name: "shaped" });
    if (isFull) {
      const box = element(
        "fieldset",
        { class: "ml-shape" },
        element("legend", {}, "Rest of the shape"),
      );
      SHAPE.forEach((spec) => add(box, spec));
      form.append(
        element("label", { for: shaped.id, class: "ml-toggle" }, shaped, "Count a whole model"),
        box,
      );
    }
    return { form, preset, presets, fields, ways, shaped };
  }

  /* Keys of the fields in use, from how the axes are given */
  function used({ ways, shaped }) {
    const chosen = AXES.map((axis) => axis.ways[ways[axis.key] ? ways[axis.key].selectedIndex : 0]);
    return [...chosen.flatMap((way) => way.fields), ...(shaped.checked ? SHAPE : [])].map(
      (spec) => spec.key,
    );
  }

  function read(parts) {
    const values = {};
    for (const { input } of Object.values(parts.fields)) input.removeAttribute("aria-invalid");
    for (const key of used(parts)) {
      const { spec, input } = parts.fields[key];
      values[key] = parse(input.value);
      const wrong = complaint(spec, values[key]);
      if (wrong) {
        input.setAttribute("aria-invalid", "true");
        return { wrong };
      }
    }
    return { values, wrong: contradiction(values) };
  }

  const written = (value) =>
    Number(value) >= 1e7 ? Number(value).toExponential().replace("+", "") : String(value);

  function fill({ fields, ways, shaped }, values) {
    for (const [key, value] of Object.entries(values)) {
      if (fields[key] && Number.isFinite(parse(String(value))))
        fields[key].input.value = written(parse(String(value)));
    }
    shaped.checked = "num_layers" in values;
    for (const axis of AXES) {
      const given = axis.ways.findIndex((way) => way.fields.every((spec) => spec.key in values));
      if (ways[axis.key] && given >= 0) ways[axis.key].selectedIndex = given;
    }
  }

  function show(parts) {
    const { fields, ways, shaped } = parts;
    for (const key of ["A", "G"]) {
      if (!ways[key]) continue;
      if (shaped.checked) ways[key].selectedIndex = 1; // a shape gives both axes
      ways[key].disabled = shaped.checked;
    }
    const shown = used(parts);
    for (const [key, { label }] of Object.entries(fields)) label.hidden = !shown.includes(key);
    const box = parts.form.querySelector(".ml-shape");
    if (box) box.hidden = !shaped.checked;
  }

  function build(root, place) {
    const isFull = root.dataset.calculator !== "small";
    const prefix = `calculator-${place}`;
    const parts = makeForm(prefix, isFull);
    root.classList.add("ml-calculator");
    root.classList.toggle("ml-small", !isFull);
    const problem = element("p", { id: `${prefix}-problem`, class: "ml-problem", role: "alert" });
    const headline = element("output", {
      class: "ml-headline",
      "aria-live": "polite",
      for: Object.values(parts.fields)
        .map((f) => f.input.id)
        .join(" "),
    });
    const warning = element("div", { class: "ml-warning", role: "status" });
    const table = element("table", { class: "ml-answers" });
    const results = element(
      "div",
      { class: "ml-results" },
      problem,
      headline,
      warning,
      element(
        "div",
        { class: "ml-scroll", tabindex: "0", role: "region", "aria-label": "Answers" },
        table,
      ),
    );
    const others = element("table", { class: "ml-answers ml-others" });
    const map = element("div", { class: "ml-landscape" });
    const more = element("a", {}, "Open in the calculator");
    const laws = [
      ["published", "published law"],
      ["measured", "measured law"],
    ].filter(([key]) => ml.data[key]);
    const [mapped, mappedLabel] = chooser(`${prefix}-map-law`, "Landscape by the ", laws);
    mappedLabel.className = "ml-map-law";
    if (isFull && ml.printed) {
      const named = {
        class: "ml-scroll",
        tabindex: "0",
        role: "region",
        "aria-label": "Other laws",
      };
      results.append(element("div", named, others));
    }
    if (isFull && laws.length > 1) results.append(mappedLabel);
    results.append(isFull ? map : element("p", {}, more));
    root.replaceChildren(parts.form, results);

    let frame = 0;
    function update(isNew = true) {
      show(parts);
      const { values, wrong } = read(parts);
      problem.textContent = wrong || "";
      root.classList.toggle("ml-invalid", Boolean(wrong));
      if (wrong) return;
      const state = located(values);
      const by = sides(state);
      headline.textContent = said(by, state);
      warn(warning, by, state);
      fillTable(table, state, by, answers(state, by, isFull));
      const address = `#${new URLSearchParams(Object.entries(values).map(([k, v]) => [k, String(v)]))}`;
      if (!isFull) return void more.setAttribute("href", (root.dataset.more || "") + address);
      ml.printed?.fill(others, state, by[0]);
      cancelAnimationFrame(frame); // the map once for each picture, however fast one types
      frame = requestAnimationFrame(() => landscape(map, state, ml.data[mapped.value], prefix));
      if (isNew) history.replaceState(null, "", address);
    }

    /* the form as the address has it; an address of a section is left alone */
    function open() {
      const shared = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
      if (Object.keys(shared).some((key) => key in parts.fields)) fill(parts, shared);
      update(false);
    }

    parts.preset.addEventListener("change", () => {
      const chosen = parts.presets[Number(parts.preset.value)];
      if (parts.preset.value !== "") fill(parts, chosen.shape || chosen.axes);
      update();
    });
    parts.form.addEventListener("input", (event) => {
      if (event.target !== parts.preset) {
        parts.preset.value = "";
        update();
      }
    });
    mapped.addEventListener("change", () => update());
    const example = ml.data.presets.find((p) => p.shape);
    if (isFull && example) fill(parts, example.shape);
    fill(parts, Object.fromEntries(AXES.map((axis) => [axis.key, axis.ways[0].fields[0].start])));
    if (isFull) window.addEventListener("hashchange", open);
    if (isFull) open();
    else update();
  }

  function said([published, measured], { A }) {
    if (A >= 1) return "A dense model: EL = 1 by definition.";
    const told = (s) => `EL = ${leverageText(s.value)}${ranged(s.range, leverageText)}`;
    const meaning =
      published.value >= 1
        ? `a dense model needs ${leverageText(published.value)} times the compute for the same loss`
        : "a dense model reaches the same loss with less compute";
    const first = `${told(published)} by the published law: ${meaning}.`;
    if (!measured) return first;
    if (measured.value === null) return `${first} Our own law says nothing at this scale.`;
    return `${first} Our own law${measured.in_domain ? "" : ", extrapolated,"} says ${told(measured)}.`;
  }

  const ranged = (range, format) => (range ? ` (${format(range[0])} to ${format(range[1])})` : "");

  const SYMBOLS = { activation_ratio: "A", granularity: "G", compute: "C" };
  const apart = (symbol, { value, range }) =>
    `${symbol} = ${large(value)} outside ${large(range[0])} to ${large(range[1])}`;

  /* Why a law of our own has no value here */
  function unsaid({ silent, reach }) {
    if (silent.key === null) return `${NOT_HERE}: our runs leave its interval unbounded here.`;
    const rule =
      silent.factor > reach
        ? `by more than ${reach} times`
        : "an axis along which our runs do not identify it";
    return `${NOT_HERE}: ${apart(SYMBOLS[silent.key], silent)}, ${rule}.`;
  }

  function standing(s, isDense) {
    if (isDense) return "EL = 1 by definition.";
    if (s.value === null) return unsaid(s);
    return s.in_domain
      ? "inside the range of its runs."
      : `extrapolated, ${s.beyond.map((w) => apart(w.symbol, w)).join("; ")}.`;
  }

  function warn(root, by, { A }) {
    root.replaceChildren(
      ...by.map((s) =>
        element(
          "p",
          { class: s.beyond.length ? "ml-outside" : "" },
          `${s.beyond.length ? "⚠ " : ""}${s.name}: ${standing(s, A >= 1)}`,
        ),
      ),
    );
    const reach =
      "In parentheses: published, how far the rounding of Table 2 lets a value move, for the paper prints no interval; ";
    const own =
      by.length === 1
        ? "our runs have no joint fit yet."
        : `measured, the ${100 * LEVEL} % bootstrap interval of our fit.`;
    root.append(element("p", {}, reach + own));
  }

  function fillTable(table, state, by, rows) {
    const cell = ({ value, range }, format = large) => {
      if (value === null) return element("td", { class: "ml-silent" }, NOT_HERE);
      if (Number.isNaN(value)) return element("td", {}, "–");
      const exact = { value: String(value) };
      if (range)
        Object.assign(exact, { "data-low": String(range[0]), "data-high": String(range[1]) });
      return element("td", {}, element("data", exact, format(value) + ranged(range, format)));
    };
    const head = element(
      "tr",
      {},
      element("th", { scope: "col" }, "Quantity"),
      ...by.map((s) => element("th", { scope: "col" }, s.name)),
    );
    table.replaceChildren(
      element(
        "caption",
        {},
        `At C = ${large(state.C)} FLOPs, A = ${large(state.A)}, G = ${large(state.G)}`,
      ),
      element("thead", {}, head),
      element(
        "tbody",
        {},
        ...rows.map(([name, cells, format]) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, name),
            ...cells.map((c) => cell(c, format)),
          ),
        ),
      ),
    );
  }

  function landscape(root, state, side, prefix) {
    const [width, height, left, right, bottom] = [460, 250, 42, 20, 36];
    const x = (A) =>
      left + (Math.log(A / GRID.a[0]) / Math.log(GRID.a[1] / GRID.a[0])) * (width - left - right);
    const y = (G) =>
      height -
      bottom -
      (Math.log(G / GRID.g[0]) / Math.log(GRID.g[1] / GRID.g[0])) * (height - bottom - 6);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "ml-map" });
    const span = (range, i, n) => range[0] * (range[1] / range[0]) ** (i / n);
    let best = { EL: -1 };
    for (let i = 0; i < GRID.columns; i++) {
      for (let j = 0; j < GRID.rows; j++) {
        const [a0, a1] = [span(GRID.a, i, GRID.columns), span(GRID.a, i + 1, GRID.columns)];
        const [g0, g1] = [span(GRID.g, j, GRID.rows), span(GRID.g, j + 1, GRID.rows)];
        const [A, G] = [Math.sqrt(a0 * a1), Math.sqrt(g0 * g1)];
        if (ml.silence(side, { activation_ratio: A, granularity: G, compute: state.C })) continue;
        const EL = ml.leverage(side.law, A, G, state.C);
        if (EL > best.EL) best = { EL, A, G };
        const band = BANDS.filter((edge) => EL >= edge).length;
        svg.append(
          drawn("rect", {
            x: x(a0),
            y: y(g1),
            width: x(a1) - x(a0) + 0.4,
            height: y(g0) - y(g1) + 0.4,
            class: `ml-band-${band}`,
          }),
        );
      }
    }
    if (best.EL < 0)
      return void root.replaceChildren(
        element("p", { class: "ml-map-text" }, "Our own law says nothing at this scale."),
      );
    for (const A of [0.01, 0.03, 0.1, 0.3, 1])
      mark(svg, x(A), height - bottom + 15, `${Number((100 * A).toPrecision(2))} %`, "middle");
    for (const G of [1, 2, 4, 8, 16, 32]) mark(svg, left - 6, y(G) + 4, String(G), "end");
    mark(svg, (left + width) / 2, height - 4, "activation ratio A", "middle");
    const upright = mark(svg, 0, 0, "granularity G", "middle");
    upright.setAttribute("transform", `translate(11 ${(height - bottom) / 2}) rotate(-90)`);
    const inside = (v, range) => Math.min(Math.max(v, range[0]), range[1]);
    const [A, G] = [inside(state.A, GRID.a), inside(state.G, GRID.g)];
    svg.append(drawn("circle", { cx: x(A), cy: y(G), r: 6, class: "ml-point" }));
    const where =
      A === state.A && G === state.G
        ? "marks the chosen point"
        : "stands at the edge nearest to the chosen point";
    const text = `At C = ${large(state.C)} FLOPs the law is highest, EL = ${leverageText(best.EL)}, at A = ${(100 * best.A).toFixed(1)} % and G = ${best.G.toFixed(0)} on this map; the circle ${where}.`;
    svg.setAttribute("aria-label", text);
    const key = element("ul", { class: "ml-key", "aria-label": "Colours" });
    const names = [
      "EL < 1",
      ...BANDS.map((edge, i) => (BANDS[i + 1] ? `${edge} to ${BANDS[i + 1]}` : `over ${edge}`)),
    ];
    names.forEach((name, band) => key.append(element("li", { class: `ml-key-${band}` }, name)));
    root.replaceChildren(
      svg,
      key,
      element("p", { class: "ml-map-text", id: `${prefix}-map` }, text),
    );
  }

  function mark(svg, x, y, text, anchor) {
    const node = drawn("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    svg.append(node);
    return node;
  }

  ml.calculator = { parse, large, located, sides, answers, said, standing };
  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("[data-calculator]").forEach(build),
  );
})();
