/* The calculator's form and tables, built into every <div data-calculator>: "full", whose form is
   the page's address, or "small" for a chapter. No library, no request. Each number in a table is a
   <data> element with all its digits. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, large, parse, address, remember } = ml.parts;
  const { AXES, SHAPE, EXTRAS, LEVEL, ranged } = ml.calculator;
  const STEPS = 400; // of a slider, over the logarithm of its field

  const KEYS = [
    ...AXES.flatMap((axis) => axis.ways.flatMap((way) => way.fields.map((spec) => spec.key))),
    ...SHAPE.map((spec) => spec.key),
    ...Object.keys(EXTRAS),
    "model",
  ];

  const written = (value) =>
    value >= 1e7 ? value.toExponential().replace("+", "") : String(value);

  /* A slider beside a field: the field's logarithm, with ticks where a reader would look */
  function slider(spec, input) {
    const list = element("datalist", { id: `${input.id}-ticks` });
    const [low, high] = [Math.log(spec.low), Math.log(spec.high)];
    const place = (value) => Math.round((STEPS * (Math.log(value) - low)) / (high - low));
    for (const tick of spec.ticks)
      list.append(element("option", { value: String(place(tick)), label: large(tick) }));
    const range = element("input", {
      type: "range",
      min: "0",
      max: String(STEPS),
      step: "1",
      list: list.id,
      "aria-label": `${spec.label}, slider`,
    });
    const show = () => {
      const value = parse(input.value);
      if (!(value >= spec.low && value <= spec.high)) return;
      range.value = String(place(value));
      range.setAttribute("aria-valuetext", large(value));
    };
    range.addEventListener("input", (event) => {
      event.stopPropagation(); // the field speaks for both
      const value = Math.exp(low + (Number(range.value) / STEPS) * (high - low));
      const round = Math.min(Math.max(Number(value.toPrecision(3)), spec.low), spec.high);
      input.value = written(round);
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
    const ticks = spec.ticks.map((tick) => {
      const mark = element("span", {}, large(tick));
      mark.style.setProperty("--place", String((100 * place(tick)) / STEPS));
      return mark;
    });
    const scale = element("span", { class: "ml-ticks", "aria-hidden": "true" }, ...ticks);
    return { nodes: [range, list, scale], show };
  }

  function control(root, spec, prefix) {
    const id = `${prefix}-${spec.key}`;
    const input = element("input", {
      id,
      name: spec.key,
      type: "text",
      inputmode: "text",
      autocomplete: "off",
      spellcheck: "false",
      "aria-describedby": `${prefix}-problem`,
    });
    const label = element("label", { for: id }, spec.label, input);
    const beside = spec.ticks ? slider(spec, input) : { nodes: [], show: () => {} };
    const box = element("div", { class: "ml-field" }, label, ...beside.nodes);
    root.append(box);
    return { spec, input, box, show: beside.show };
  }

  function chooser(id, label, options) {
    const choices = options.map(([value, words]) => element("option", { value }, words));
    const select = element("select", { id }, ...choices);
    return [select, element("label", { for: id }, label, select)];
  }

  /* The form's fields by key, how each axis is given, and whether a whole shape is */
  function makeForm(prefix, isFull) {
    const form = element("form", { class: "ml-form", "aria-label": "Leverage calculator" });
    form.addEventListener("submit", (event) => event.preventDefault());
    const models = isFull ? ml.gallery.models : [];
    const names = [
      ["", "own values"],
      ...ml.data.presets.map((p) => [p.name, p.name]),
      ...models.map((m) => [m.name, m.name]),
    ];
    const [preset, presetLabel] = chooser(`${prefix}-preset`, "Start from", names);
    form.append(presetLabel);
    const file = element("input", {
      type: "file",
      id: `${prefix}-file`,
      accept: ".json,application/json",
    });
    const reset = element("button", { type: "button" }, "Reset");
    if (isFull) {
      form.append(
        element("label", { for: file.id, class: "ml-file" }, "or drop a config.json here", file),
        reset,
      );
    }
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
    const besides = element("p", { class: "ml-besides" });
    if (isFull) {
      const legend = element("legend", {}, "Rest of the shape");
      const box = element("fieldset", { class: "ml-shape" }, legend);
      SHAPE.forEach((spec) => add(box, spec));
      box.append(besides);
      form.append(
        element("label", { for: shaped.id, class: "ml-toggle" }, shaped, "Count a whole model"),
        box,
      );
    }
    return { form, preset, file, reset, fields, ways, shaped, besides, extras: {}, model: null };
  }

  /* Keys of the fields in use, from how the axes are given */
  function used({ ways, shaped, model }) {
    const chosen = AXES.map((axis) => axis.ways[ways[axis.key]?.selectedIndex ?? 0]);
    const shape = shaped.checked && !model ? SHAPE : [];
    return [...chosen.flatMap((way) => way.fields), ...shape].map((spec) => spec.key);
  }

  function read(parts) {
    const values = {};
    for (const { input } of Object.values(parts.fields)) input.removeAttribute("aria-invalid");
    for (const key of used(parts)) {
      const { spec, input } = parts.fields[key];
      values[key] = parse(input.value);
      const wrong = ml.calculator.complaint(spec, values[key]);
      if (wrong) {
        input.setAttribute("aria-invalid", "true");
        return { wrong };
      }
    }
    if ("num_layers" in values) Object.assign(values, parts.extras);
    return { values, wrong: ml.calculator.contradiction(values) };
  }

  /* Puts values into the fields; those that name a shape or a model bring its extras along */
  function fill(parts, values) {
    const { fields, ways, shaped } = parts;
    for (const [key, value] of Object.entries(values)) {
      const number = parse(String(value));
      if (fields[key] && Number.isFinite(number)) fields[key].input.value = written(number);
    }
    parts.model = ml.gallery?.models.find((m) => m.name === values.model && m.counts) || null;
    shaped.checked = "num_layers" in values || parts.model !== null;
    const extra = Object.keys(EXTRAS).filter(
      (key) => shaped.checked && parse(String(values[key] ?? "")) > 0,
    );
    parts.extras = Object.fromEntries(extra.map((key) => [key, parse(String(values[key]))]));
    for (const axis of AXES) {
      const given = axis.ways.findIndex((way) => way.fields.every((spec) => spec.key in values));
      if (ways[axis.key] && given >= 0) ways[axis.key].selectedIndex = given;
    }
  }

  /* The values that a model of the gallery or an example puts into the form */
  function startOf(name) {
    const example = ml.data.presets.find((p) => p.name === name);
    if (example) return example.axes;
    const model = ml.gallery.models.find((m) => m.name === name);
    const tokens = "D" in model ? { D: model.D } : {};
    if (model.counts) return { A: model.counts.A, G: model.counts.G, model: name, ...tokens };
    const { sequence_length } = model;
    return { ...ml.configs.read(model.config), sequence_length, ...tokens };
  }

  function show(parts) {
    const { fields, ways, shaped, model } = parts;
    for (const key of ["A", "G"]) {
      if (!ways[key]) continue;
      if (shaped.checked) ways[key].selectedIndex = model ? 0 : 1; // a shape gives both axes
      ways[key].disabled = shaped.checked;
    }
    const shown = used(parts);
    for (const [key, field] of Object.entries(fields)) {
      field.box.hidden = !shown.includes(key);
      field.show();
    }
    const box = parts.form.querySelector(".ml-shape");
    if (box) box.hidden = !shaped.checked;
    const told = ml.calculator.besides(parts.extras);
    parts.besides.textContent = model
      ? `${model.name} is counted as the package builds it: moe-leverage explain ${model.name}`
      : told && `Counted besides: ${told}.`;
  }

  const scrolling = (name, table) =>
    element(
      "div",
      { class: "ml-scroll", tabindex: "0", role: "region", "aria-label": name },
      table,
    );

  function build(root, place) {
    const isFull = root.dataset.calculator !== "small";
    const prefix = `calculator-${place}`;
    const parts = makeForm(prefix, isFull);
    root.classList.add("ml-calculator");
    root.classList.toggle("ml-small", !isFull);
    const problem = element("p", { id: `${prefix}-problem`, class: "ml-problem", role: "alert" });
    const ids = Object.values(parts.fields).map((f) => f.input.id);
    const headline = element("output", {
      class: "ml-headline",
      "aria-live": "polite",
      for: ids.join(" "),
    });
    const warning = element("div", { class: "ml-warning", role: "status" });
    const [table, splits, others] = ["", " ml-splits", " ml-others"].map((style) =>
      element("table", { class: `ml-answers${style}` }),
    );
    const results = element(
      "div",
      { class: "ml-results" },
      problem,
      headline,
      warning,
      scrolling("Answers", table),
    );
    const laws = [
      ["published", "published law"],
      ["measured", "measured law"],
    ].filter(([key]) => ml.data[key]);
    const [mapped, mappedLabel] = chooser(`${prefix}-map-law`, "Landscape by the ", laws);
    mappedLabel.className = "ml-map-law";
    const map = element("div", { class: "ml-landscape" });
    const more = element("a", {}, "Open in the calculator");
    if (isFull) {
      const why = element("p", { class: "ml-why" }, ml.data.why);
      results.append(scrolling("Model and data", splits), why, scrolling("Other laws", others));
      results.append(...(laws.length > 1 ? [mappedLabel] : []), map);
    } else results.append(element("p", {}, more));
    root.replaceChildren(parts.form, results);

    const refuse = (wrong) => {
      problem.textContent = wrong || "";
      root.classList.toggle("ml-invalid", Boolean(wrong));
      return Boolean(wrong);
    };
    const showMap =
      isFull &&
      ml.landscape.make(map, (point) => {
        fill(parts, point);
        parts.preset.value = "";
        update();
      });

    let frame = 0;
    function update(isNew = true) {
      show(parts);
      const { values, wrong } = read(parts);
      if (refuse(wrong)) return;
      const { model } = parts;
      const state = ml.calculator.located(values, model?.counts);
      const by = ml.calculator.sides(state);
      headline.textContent = ml.calculator.said(by, state);
      warn(warning, by, state);
      fillTable(table, state, by, ml.calculator.answers(state, by, isFull));
      const kept = model ? { ...values, model: model.name } : values;
      if (!isFull) {
        const words = new URLSearchParams(Object.entries(kept).map(([k, v]) => [k, String(v)]));
        return void more.setAttribute("href", `${root.dataset.more || ""}#${words}`);
      }
      fillSplits(splits, state, by);
      ml.printed.fill(others, state, by[0]);
      cancelAnimationFrame(frame); // the map once for each picture, however fast one types
      frame = requestAnimationFrame(() => showMap(state, mapped.value));
      if (isNew) remember(KEYS, kept);
    }

    const began = Object.fromEntries(AXES.map((a) => [a.key, a.ways[0].fields[0].start]));
    function begin() {
      if (isFull) fill(parts, startOf("Ling-mini-beta")); // what a whole model starts from
      parts.extras = {};
      fill(parts, { ...began, D: 1e12 });
      for (const way of Object.values(parts.ways)) way.selectedIndex = 0;
      parts.preset.value = "";
    }

    /* the form as the address has it; an address of a section is left alone */
    function open() {
      const shared = address();
      if (Object.keys(shared).some((key) => KEYS.includes(key))) fill(parts, shared);
      update(false);
    }

    parts.preset.addEventListener("change", () => {
      const name = parts.preset.value;
      if (name === "") return;
      try {
        fill(parts, startOf(name));
        update();
      } catch (error) {
        refuse(error.message);
      }
    });
    parts.form.addEventListener("input", (event) => {
      if ([parts.preset, parts.file].includes(event.target)) return;
      parts.preset.value = "";
      if (event.target === parts.shaped) parts.model = null;
      if (["num_shared_experts", "d_expert"].includes(event.target.name))
        delete parts.extras.d_shared;
      if (["A", "G"].includes(event.target.name) && parts.model) {
        parts.model = null;
        parts.shaped.checked = false;
      }
      update();
    });
    parts.reset.addEventListener("click", () => {
      begin();
      update(false);
      remember(KEYS, {});
    });
    mapped.addEventListener("change", () => update());

    async function take(file) {
      try {
        const shape = await ml.configs.readFile(file);
        fill(parts, { sequence_length: 4096, ...shape });
        parts.preset.value = "";
        update();
      } catch (error) {
        refuse(error.message);
      }
      parts.file.value = ""; // the same file may be chosen again
    }
    if (isFull) {
      parts.file.addEventListener("change", () => parts.file.files[0] && take(parts.file.files[0]));
      ml.parts.dropped(root, take, refuse);
    }
    begin();
    if (isFull) window.addEventListener("hashchange", open);
    if (isFull) open();
    else update();
  }

  function warn(root, by, { A }) {
    const line = (s) => {
      const isOut = s.beyond.length > 0;
      const words = `${isOut ? "⚠ " : ""}${s.name}: ${ml.calculator.standing(s, A >= 1)}`;
      return element("p", { class: isOut ? "ml-outside" : "" }, words);
    };
    const reach =
      "In parentheses: published, how far the rounding of Table 2 lets a value move, for the paper prints no interval; ";
    const own =
      by.length === 1
        ? "our runs have no joint fit yet."
        : `measured, the ${100 * LEVEL} % bootstrap interval of our fit.`;
    root.replaceChildren(...by.map(line), element("p", {}, reach + own));
  }

  function fillTable(table, state, by, rows) {
    const caption = `At C = ${large(state.C)} FLOPs, A = ${large(state.A)}, G = ${large(state.G)}`;
    put(table, caption, ["Quantity", ...by.map((s) => s.name)], rows);
  }

  function fillSplits(table, state, by) {
    const heads = {
      "as printed": "Table 1 as printed: M is one pass",
      "three passes": "Table 1, M of three passes",
    };
    const names = Object.keys(ml.data.readings).map((name) => heads[name] || name);
    const columns = ["Model and data", ...names, ...(by[1] ? ["Measured laws"] : [])];
    const caption = "The best split of the budget, under both readings of Table 1";
    put(table, caption, columns, ml.calculator.allocations(state, by));
  }

  /* A table of named rows whose cells have a value and perhaps its range */
  function put(table, caption, columns, rows) {
    const cell = ({ value, range, word }, format = large) => {
      if (value === null) return element("td", { class: "ml-silent" }, word);
      if (Number.isNaN(value)) return element("td", {}, "–");
      const ends = range ? { "data-low": String(range[0]), "data-high": String(range[1]) } : {};
      const words = format(value) + ranged(range, format);
      return element("td", {}, element("data", { value: String(value), ...ends }, words));
    };
    const head = columns.map((name) => element("th", { scope: "col" }, name));
    const body = rows.map(([name, cells, format]) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        ...cells.map((c) => cell(c, format)),
      ),
    );
    table.replaceChildren(
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...body),
    );
  }

  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("[data-calculator]").forEach(build),
  );
})();
