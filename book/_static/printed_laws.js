/* The printed laws of other groups on the calculator page: each a table of ln EL over ln A, ln G and
   ln C (or ln N_a, at fixed tokens), interpolated; printed-laws-data.js holds the tables. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const ATTENTION = 4; // of 12 parts of a block's active parameters, as in the package
  const FFN = 8;
  const WORDS = {
    activation_ratio: "A",
    granularity: "G",
    compute: "C",
    num_tokens: "tokens",
    active_params: "active size",
    total_params: "total size",
  };
  const END = 1e-3; // ends of a range are printed with few digits

  /* The place of a value in a rising grid: the cell's lower end, and how far into it */
  function placed(grid, value) {
    if (grid.length === 1) return [0, 0];
    if (value < grid[0] || value > grid[grid.length - 1]) return null;
    const at = Math.min(
      grid.findLastIndex((x) => x <= value),
      grid.length - 2,
    );
    return [at, Math.log(value / grid[at]) / Math.log(grid[at + 1] / grid[at])];
  }

  /* Interpolation in the logarithms; null beyond the table, or next to a place without a value */
  function interpolated(grid, table, point) {
    const places = grid.map((values, i) => placed(values, point[i]));
    if (places.includes(null)) return null;
    let sum = 0;
    for (let corner = 0; corner < 8; corner++) {
      let weight = 1;
      let index = 0;
      places.forEach(([at, share], i) => {
        const up = (corner >> i) & 1;
        weight *= up ? share : 1 - share;
        index = index * grid[i].length + at + up;
      });
      if (weight === 0) continue;
      if (table[index] === null) return null;
      sum += weight * table[index];
    }
    return sum;
  }

  /* What a printed law says of a point: `value` null where it is silent, and why in `reason` */
  function printed(law, { A, G, C, counted }) {
    if (law.silent) return { value: null, in_domain: false, reason: law.silent };
    if (A >= 1) return { value: 1, in_domain: true, reason: "EL = 1 by definition" };
    const size = counted ? counted.active : C / (6 * law.num_tokens);
    const point = [A, law.grid[1].length > 1 ? G : 1, law.axis === "C" ? C : size];
    const found = interpolated(law.grid, law.table, point);
    if (found === null)
      return { value: null, in_domain: false, reason: "no answer at such a point" };
    const at = { activation_ratio: A, granularity: G, compute: C, active_params: size };
    if (law.sizes) {
      at.active_params = Math.exp(interpolated(law.grid, law.sizes, point));
      at.num_tokens = C / (6 * at.active_params);
      at.total_params = (at.active_params * (ATTENTION + FFN / A)) / (ATTENTION + FFN);
    }
    const beyond = Object.entries(law.domain)
      .filter(([key, [low, high]]) => at[key] < low * (1 - END) || at[key] > high * (1 + END))
      .map(([key]) => WORDS[key]);
    const reason = beyond.length ? `extrapolated in ${beyond.join(", ")}` : "";
    return { value: Math.exp(found), in_domain: !beyond.length, reason };
  }

  function element(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  /* One row a law; the paper's own first, by its formula */
  function fill(table, state, published) {
    const own = {
      title: "The paper",
      basis: "own optimum",
      value: published.value,
      in_domain: published.in_domain,
      reason: published.in_domain ? "" : "extrapolated",
    };
    const rows = [own, ...ml.printedLaws.map((law) => ({ ...law, ...printed(law, state) }))];
    const shown = (value) => Number(value.toPrecision(2)).toLocaleString("en");
    const cell = ({ value }) =>
      value === null
        ? element("td", { class: "ml-silent" }, "–")
        : element("td", {}, element("data", { value: String(value) }, shown(value)));
    const head = ["Every printed law", "EL", "compared at", "standing"];
    table.replaceChildren(
      element("caption", {}, "What the laws of other groups say of the same point"),
      element(
        "thead",
        {},
        element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h))),
      ),
      element(
        "tbody",
        {},
        ...rows.map((row) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, row.title),
            cell(row),
            element("td", {}, row.basis || "–"),
            element("td", {}, row.reason || "inside its runs"),
          ),
        ),
      ),
    );
  }

  ml.printed = { law: printed, fill };
})();
