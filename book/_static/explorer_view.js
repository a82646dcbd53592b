/* What the explorer shows: its quantities, questions and columns, and which runs make one mark. No
   page is needed for any of it, so Node tests it. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { large, percent } = ml.parts;

  const QUANTITIES = {
    C: ["Training compute C, FLOPs", true],
    A: ["Activation ratio A", true],
    G: ["Granularity G", true],
    S: ["Shared-expert ratio S", false],
    M: ["FLOPs per token M", true],
    N: ["Parameters N", true],
    N_a: ["Active parameters N_a", true],
    D: ["Tokens D", true],
    eta: ["Learning rate", true],
    B: ["Batch, tokens", true],
    loss: ["Validation loss, nats", true],
    bits: ["Bits a byte", true],
    excess: ["Loss above dense, nats", false],
    EL: ["Efficiency leverage EL", true],
  };
  const X = ["C", "A", "G", "S", "M", "N", "N_a", "D", "eta", "B"];
  const Y = ["loss", "excess", "EL", "bits"];
  const COLOURS = { family: "Dense or MoE", A: "Activation ratio", study: "Study" };
  const FILTERS = {
    study: "Study",
    family: "Family",
    budget: "Budget (rung), FLOPs",
    A: "Activation ratio",
    G: "Granularity",
    seed: "Seed",
    status: "Status",
  };
  const MARKS = {
    best: "best dense and MoE setting at each rung",
    designs: "best setting of each A, G, S",
    means: "every setting, mean of seeds",
    runs: "every run",
  };
  const START = {
    x: "C",
    y: "loss",
    colour: "family",
    marks: "best",
    excluded: "",
    sort: "C",
    down: "",
  };
  const KEYS = [...new Set([...Object.keys(START), ...Object.keys(FILTERS), "run"])];
  const BETWEEN = "between rungs";

  /* What one may come to ask, as a view; the menus go on from there */
  function questions(all) {
    const known = all.filter((row) => row.EL !== null && row.family === "moe");
    const rungs = [...new Set(known.map((row) => same(row.budget)))];
    const spread = (rung) =>
      new Set(known.filter((r) => same(r.budget) === rung).map((r) => same(r.A)));
    const widest = rungs.sort((a, b) => spread(b).size - spread(a).size || b - a)[0] || "";
    const saving = { y: "EL", marks: "designs", budget: widest, family: "moe" };
    return {
      compute: ["How does loss fall with compute?", {}],
      sparsity: ["What do sparse experts save, at one budget?", { ...saving, x: "A" }],
      grain: ["And fine ones?", { ...saving, x: "G", colour: "A" }],
      noise: ["How far apart are seeds?", { marks: "means", y: "excess" }],
    };
  }
  const leverage = (r) =>
    r.EL_least !== null
      ? `≥ ${large(r.EL_least)}`
      : r.EL_most !== null
        ? `≤ ${large(r.EL_most)}`
        : r.EL === null
          ? "–"
          : r.EL.toFixed(2);
  const FAMILIES = { dense: "dense", moe: "MoE" };
  const COLUMNS = [
    ["run", "Run", (r) => r.run],
    ["family", "Family", (r) => FAMILIES[r.family]],
    ["budget", "Budget", (r) => large(r.budget)],
    ["A", "A", (r) => percent(r.A)],
    ["G", "G", (r) => large(r.G)],
    ["loss", "Loss", (r) => (r.loss === null ? "–" : r.loss.toFixed(3))],
    ["EL", "EL", leverage],
    [
      "excess",
      "Above dense",
      (r) => (r.excess === null ? "–" : r.excess.toFixed(3).replace("-", "−")),
    ],
    ["seed", "Seed", (r) => String(r.seed)],
    ["study", "Study", (r) => r.studies.join(", ")],
    ["eta", "Learning rate", (r) => large(r.eta)],
    ["B", "Batch", (r) => String(r.B)],
    ["S", "S", (r) => percent(r.S)],
    ["C", "C, FLOPs", (r) => large(r.C)],
    ["status", "Status", (r) => r.status],
  ];

  const same = (v) => (typeof v === "number" ? String(Number(v.toPrecision(3))) : String(v));
  const valueIn = (row, key) => (key === "study" ? row.studies[0] : row[key]);
  /* Budgets with a place on the dense frontier are the rungs; the rest lie between them */
  const isRung = (row) => ml.explorer.rungs.some((rung) => same(rung) === same(row.budget));
  function keysOf(row, key) {
    if (key === "study") return row.studies;
    return [key === "budget" && !isRung(row) ? BETWEEN : same(row[key])];
  }

  /* The rows that the menus leave: finished and counted runs, unless others are asked for */
  function chosen(all, state) {
    const wanted = Object.keys(FILTERS).filter((key) => state[key]);
    return all.filter(
      (row) =>
        (state.excluded || state.status || row.status === "ok") &&
        wanted.every((key) => keysOf(row, key).includes(state[key])),
    );
  }

  const KEPT = ["run", "budget", "loss", "EL"]; // columns that stand even where all runs agree
  const NARROW = ["C", "S"]; // that follow from others or from the panel, on a narrow page

  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  /* The runs of one setting, which differ in seeds alone, as one mark: means of what is known */
  function settings(rows, y) {
    const groups = Map.groupBy
      ? Map.groupBy(rows, (row) => row.config)
      : rows.reduce((m, r) => m.set(r.config, [...(m.get(r.config) || []), r]), new Map());
    return [...groups.values()].map((runs) => {
      const known = runs.filter((run) => run[y] !== null);
      const values = known.map((run) => run[y]);
      const losses = runs.map((run) => run.loss).filter((loss) => loss !== null);
      const loss = losses.length ? mean(losses) : null;
      const ends = values.length > 1 ? [Math.min(...values), Math.max(...values)] : null;
      return { ...runs[0], loss, [y]: values.length ? mean(values) : null, runs, ends };
    });
  }

  /* Of settings the one of lowest loss of each kind at each budget */
  function lowest(found, kind) {
    const best = new Map();
    for (const one of found) {
      const key = `${kind(one)} ${one.budget}`;
      const other = best.get(key);
      if (one.loss !== null && !(other && other.loss <= one.loss)) best.set(key, one);
    }
    return [...best.values()];
  }

  const designOf = (row) => [row.family, same(row.A), same(row.G), same(row.S)].join(" ");

  /* The marks of a view */
  function marked(rows, { marks, y }) {
    if (marks === "runs") return rows.map((row) => ({ ...row, runs: [row], ends: null }));
    const found = settings(rows, y);
    if (marks === "means") return found;
    const known = found.filter((one) => one[y] !== null); // a search has losses and no leverage
    if (marks === "designs") return lowest(known, designOf);
    return lowest(found.filter(isRung), (one) => one.family);
  }

  function rows() {
    const { columns, rows: listed } = ml.explorer;
    return listed.map((values) => {
      const row = Object.fromEntries(columns.map((name, i) => [name, values[i]]));
      return { ...row, status: row.excluded ? "excluded" : row.status };
    });
  }

  ml.explorerView = {
    BETWEEN,
    COLOURS,
    COLUMNS,
    FAMILIES,
    FILTERS,
    KEPT,
    KEYS,
    MARKS,
    NARROW,
    QUANTITIES,
    START,
    X,
    Y,
    chosen,
    keysOf,
    marked,
    questions,
    rows,
    same,
    valueIn,
  };
})();
