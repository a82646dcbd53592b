/* The calculator's form: fields with their sliders, the ways in which an axis may be given, a whole
   model's shape, and what starts them: an example, a model of the gallery, an address. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, large, parse } = ml.parts;
  const { AXES, SHAPE, EXTRAS } = ml.calculator;
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
  function make(prefix, isFull) {
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
      if (!Object.hasOwn(fields, key) || [undefined, null, ""].includes(value)) continue;
      const number = parse(String(value)); // what is none stands in its field, which refuses it
      fields[key].input.value = Number.isFinite(number) ? written(number) : String(value);
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

  /* The form as it is at first: every axis given as itself, a whole model's fields those of an example */
  function begun(parts, isFull) {
    if (isFull) fill(parts, startOf("Ling-mini-beta"));
    parts.extras = {};
    fill(parts, {
      ...Object.fromEntries(AXES.map((a) => [a.key, a.ways[0].fields[0].start])),
      D: 1e12,
    });
    for (const way of Object.values(parts.ways)) way.selectedIndex = 0;
  }

  ml.calculatorForm = { KEYS, begun, chooser, fill, make, read, show, startOf };
})();
