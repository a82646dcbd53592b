/* The calculator's page, built into every <div data-calculator>: "full", whose form (calculator_form.js)
   is the page's address, or "small" for a chapter; its answers as tables. No library, no request. Each number in a table is a
   <data> element with all its digits. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, large, address, leftAside, remember, written } = ml.parts;
  const { LEVEL, ranged } = ml.calculator;
  const { KEYS, begun, chooser, fill, make, read, show, startOf } = ml.calculatorForm;

  const scrolling = (name, table) =>
    element(
      "div",
      { class: "ml-scroll", tabindex: "0", role: "region", "aria-label": name },
      table,
    );

  function build(root, place) {
    const isFull = root.dataset.calculator !== "small";
    const prefix = `calculator-${place}`;
    const parts = make(prefix, isFull);
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
        const words = new URLSearchParams(Object.entries(kept).map(([k, v]) => [k, written(v)]));
        return void more.setAttribute("href", `${root.dataset.more || ""}#${words}`);
      }
      fillSplits(splits, state, by);
      ml.printed.fill(others, state, by[0]);
      cancelAnimationFrame(frame); // the map once for each picture, however fast one types
      frame = requestAnimationFrame(() => showMap(state, mapped.value));
      if (isNew) remember(KEYS, kept);
    }

    function begin() {
      begun(parts, isFull);
      parts.preset.value = "";
    }

    /* the form as the address has it; an address of a section is left alone */
    function open() {
      const shared = address();
      if (Object.keys(shared).some((key) => KEYS.includes(key))) fill(parts, shared);
      update(false);
      if (shared.model && !parts.model) problem.append(leftAside([["model", shared.model]]).trim());
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
