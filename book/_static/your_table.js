/* Efficiency leverage from a reader's table of runs, over the measured dense frontier: the procedure
   of analysis/leverage.py with its floor pinned at 0, which `moe-leverage fit --floor 0` repeats. A
   test holds points, noise and intervals of the two equal. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const LARGEST = 4 * 2 ** 20; // bytes
  const MOST_ROWS = 5000;
  const DRAWS = 400;
  const SIZES = ["flops_per_token", "num_tokens", "active_params", "learning_rate", "batch_tokens"];
  const COMMAND = "the command does more: moe-leverage fit";

  /* Rows of cells of a CSV, TSV or semicolon-separated text; quotes as RFC 4180 has them */
  function cells(text) {
    const first = text.slice(0, text.search(/[\r\n]|$/));
    const mark = ["\t", ";", ","].find((m) => first.includes(m)) || ",";
    const rows = [[""]];
    let isQuoted = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      const row = rows[rows.length - 1];
      if (isQuoted && c === '"' && text[i + 1] === '"') row[row.length - 1] += text[++i];
      else if (c === '"') isQuoted = !isQuoted;
      else if (!isQuoted && c === mark) row.push("");
      else if (!isQuoted && (c === "\n" || c === "\r")) {
        if (c === "\r" && text[i + 1] === "\n") i++;
        rows.push([""]);
      } else row[row.length - 1] += c;
    }
    if (isQuoted) throw new Error("a quoted cell does not end");
    return rows.filter((row) => row.some((cell) => cell.trim() !== ""));
  }

  const plainName = (header) =>
    header
      .toLowerCase()
      .replace(/\([^)]*\)|\[[^\]]*\]/g, " ")
      .replace(/[^a-z0-9]+/g, "_")
      .replace(/^_+|_+$/g, "");

  /* Which column is which quantity, by its name alone; two for one are refused */
  function mapped(headers) {
    const places = {};
    for (const [ours, names] of Object.entries(ml.tableData.names)) {
      const found = headers.flatMap((h, i) => (names.includes(plainName(h)) ? [i] : []));
      if (found.length > 1) {
        const both = found.map((i) => headers[i]).join(" and ");
        throw new Error(`columns ${both} could both be ${ours}; ${COMMAND} --column ${ours}=NAME`);
      }
      if (found.length) places[ours] = found[0];
    }
    const left = ml.tableData.left.filter((name) => name in places);
    if (left.length)
      throw new Error(`column ${headers[places[left[0]]]} tells rows apart; ${COMMAND}`);
    const missing = ["loss", "compute"].find((name) => !(name in places));
    if (missing)
      throw new Error(
        `no column of ${missing} (such as ${ml.tableData.names[missing].slice(0, 3).join(", ")}); ${COMMAND}`,
      );
    if (!["is_moe", "num_experts", "activation_ratio"].some((name) => name in places))
      throw new Error(
        `nothing tells dense from MoE rows: is_moe, num_experts or activation_ratio; ${COMMAND}`,
      );
    return places;
  }

  const significant = (x) => (x ? Number(x.toPrecision(4)) : x);

  /* The runs of a table in our names, or an Error that names row, column and rule */
  function read(text) {
    const [headers, ...lines] = cells(text.replace(/^\uFEFF/, ""));
    if (!headers || !lines.length) throw new Error("the table has no rows");
    if (lines.length > MOST_ROWS)
      throw new Error(`${lines.length} rows are more than ${MOST_ROWS}; ${COMMAND}`);
    const places = mapped(headers);
    const runs = lines.map((line, i) => {
      const row = `row ${i + 2}`;
      if (line.length > headers.length) throw new Error(`${row}: more cells than the header has`);
      const number = (name) => {
        const cell = (line[places[name]] ?? "").trim();
        if (!(name in places) || cell === "") return NaN;
        const value = ml.parts.parse(cell);
        if (Number.isNaN(value))
          throw new Error(
            `${row}, ${headers[places[name]]} = ${cell.slice(0, 60)}: is not a number`,
          );
        return value;
      };
      const run = Object.fromEntries(
        ["loss", "compute", ...SIZES].map((name) => [name, number(name)]),
      );
      for (const [name, [low, high]] of Object.entries(ml.tableData.plausible)) {
        const isRight = run[name] >= low && run[name] <= high;
        if (!isRight)
          throw new Error(
            `${row}, ${headers[places[name]]} = ${line[places[name]] || "empty"}: must be from ${low} to ${high}; in other units ${COMMAND}`,
          );
      }
      const [experts, active] = [number("num_experts"), number("num_active_experts")];
      const shared = number("num_shared_experts") || 0;
      let ratio = number("activation_ratio");
      if (Number.isNaN(ratio)) ratio = (active + shared) / (experts + shared);
      run.is_moe = experts > 1;
      if ("is_moe" in places) {
        const word = (line[places.is_moe] ?? "").trim().toLowerCase();
        if (!Object.hasOwn(ml.tableData.moeWords, word))
          throw new Error(
            `${row}, ${headers[places.is_moe]} = ${word.slice(0, 60)}: must say moe or dense`,
          );
        run.is_moe = ml.tableData.moeWords[word];
      } else if (!("num_experts" in places)) run.is_moe = ratio < 1;
      if (run.is_moe && !(ratio > 0 && ratio <= 1) && !Number.isNaN(ratio))
        throw new Error(`${row}, activation_ratio = ${ratio}: must be from 0 to 1`);
      let grain = number("granularity");
      if (Number.isNaN(grain)) grain = (2 * number("d_model")) / number("d_expert");
      let share = number("shared_ratio");
      if (Number.isNaN(share) && "num_shared_experts" in places) share = shared / (active + shared);
      run.activation_ratio = run.is_moe ? significant(ratio) : 1;
      run.granularity = run.is_moe ? significant(grain) : 0;
      run.shared_ratio = run.is_moe ? significant(share) : 0;
      run.seed = "seed" in places ? (line[places.seed] ?? "") : null;
      return run;
    });
    const known = new Set(Object.values(places));
    const unread = headers.filter(
      (_, i) => !known.has(i) && new Set(lines.map((l) => l[i])).size > 1,
    );
    return {
      runs,
      unread,
      columns: Object.fromEntries(Object.entries(places).map(([k, i]) => [k, headers[i]])),
    };
  }

  const median = (sorted) => {
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  };

  /* Computes within a tolerance of the first share their median: a budget for each run */
  function budgets(computes) {
    const order = computes.map((_, i) => i).sort((a, b) => computes[a] - computes[b]);
    const found = new Array(computes.length);
    for (let begin = 0; begin < order.length; ) {
      const limit = computes[order[begin]] * (1 + ml.tableData.sameBudget);
      let end = begin;
      while (end < order.length && computes[order[end]] <= limit) end++;
      const members = order.slice(begin, end);
      const value = median(members.map((i) => computes[i]));
      for (const i of members) found[i] = value;
      begin = end;
    }
    return found;
  }

  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  function groups(items, key) {
    const found = new Map();
    for (const item of items) found.set(key(item), [...(found.get(key(item)) || []), item]);
    return [...found.values()];
  }
  const family = (run) =>
    [run.is_moe, run.activation_ratio, run.granularity, run.shared_ratio].join();

  /* Settings: rows that differ in their seed alone are one, with the mean of their losses */
  function settings(runs) {
    const budget = budgets(runs.map((run) => run.compute));
    const placed = runs.map((run, i) => ({ ...run, budget: budget[i], place: i }));
    const key = (run) => [family(run), run.budget, ...SIZES.map((name) => run[name])].join();
    const again = new Map(); // a seed that comes twice is of another setting
    for (const run of placed) {
      const name = `${key(run)} ${run.seed}`;
      run.copy = run.seed === null ? run.place : again.get(name) || 0;
      again.set(name, (again.get(name) || 0) + 1);
    }
    return groups(placed, (run) => `${key(run)},${run.copy}`).map((same) => ({
      ...same[0],
      loss: mean(same.map((run) => run.loss)),
      compute: mean(same.map((run) => run.compute)),
      losses: same.map((run) => run.loss),
    }));
  }

  /* The best setting of each family at each budget */
  function best(found) {
    const chosen = groups(found, (one) => `${family(one)},${one.budget}`).map((rivals) =>
      rivals.reduce((a, b) => (b.loss < a.loss ? b : a)),
    );
    return chosen.sort((a, b) => a.compute - b.compute);
  }

  /* Standard deviation of ln loss between seeds, as wide as its freedom asks; NaN below the least */
  function noise(runs) {
    const same = settings(runs);
    const freedom = runs.length - same.length;
    if (freedom < ml.tableData.least) return { noise: NaN, freedom };
    let squares = 0;
    for (const { losses } of same) {
      const logs = losses.map(Math.log);
      const middle = mean(logs);
      squares += logs.reduce((sum, v) => sum + (v - middle) ** 2, 0);
    }
    const ratios = ml.tableData.studentRatio;
    const ratio = ratios[Math.min(freedom, ratios.length) - 1];
    return { noise: Math.sqrt(squares / freedom) * ratio, freedom };
  }

  /* Dense compute at which the running minimum of (ln C, ln L) reaches a loss: infinite below every
     dense loss, 0 above */
  function frontierCompute(compute, logLoss, wanted) {
    const knots = logLoss.map((_, i) => Math.min(...logLoss.slice(0, i + 1)) - 1e-12 * i);
    const last = knots.length - 1;
    const passed = knots.filter((v) => v >= wanted).length;
    if (passed === 0) return 0;
    if (passed > last && Math.abs(wanted - knots[last]) > 1e-11) return Infinity;
    const right = Math.min(Math.max(passed, 1), last);
    const [high, low] = [knots[right - 1], knots[right]];
    const [from, to] = [Math.log(compute[right - 1]), Math.log(compute[right])];
    return Math.exp(from + ((high - wanted) / (high - low)) * (to - from));
  }

  /* EL of every mixture with an interval under draws of noise: a row of normal numbers a draw, the
     dense settings first; without noise there are values and no intervals */
  function leverage(runs, normals) {
    const all = best(settings(runs));
    const [dense, mixtures] = [all.filter((one) => !one.is_moe), all.filter((one) => one.is_moe)];
    if (dense.length < 2)
      throw new Error(`dense budgets = ${dense.length}: the dense frontier needs 2 or more`);
    if (!mixtures.length) throw new Error("MoE runs = 0: there is no leverage to estimate");
    const told = noise(runs);
    const compute = dense.map((one) => one.compute);
    const logs = (ones, drawn) =>
      ones.map(
        (one, i) =>
          Math.log(one.loss) + (drawn ? (drawn[i] * told.noise) / Math.sqrt(one.losses.length) : 0),
      );
    const value = (drawn) => {
      const [of, wanted] = [logs(dense, drawn), logs(mixtures, drawn?.slice(dense.length))];
      return mixtures.map((one, i) => frontierCompute(compute, of, wanted[i]) / one.compute);
    };
    const draws = Number.isNaN(told.noise) ? [] : normals(all.length).map(value);
    const tail = (1 - ml.tableData.level) / 2;
    const points = value(null).map((EL, i) => {
      const { activation_ratio: A, granularity: G, compute: C, loss } = mixtures[i];
      if (EL === 0) return { A, G, C, loss, EL: null, most: compute[0] / C };
      if (!Number.isFinite(EL))
        return { A, G, C, loss, EL: null, least: compute[compute.length - 1] / C };
      const sorted = draws.map((values) => values[i]).sort((a, b) => a - b);
      const ends = sorted.length ? [tail, 1 - tail].map((q) => ml.quantile(sorted, q)) : null;
      return { A, G, C, loss, EL, ends };
    });
    return { points, dense, ...told };
  }

  /* Normal numbers from a seeded generator, so that a page says the same again */
  function normals(count) {
    const uniform = ml.refit.uniform(1);
    const one = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    return Array.from({ length: DRAWS }, () => Array.from({ length: count }, one));
  }

  /* Dense settings that no cheaper one beats */
  const frontierSize = (dense) =>
    dense.filter((one, i) => dense.slice(0, i).every((other) => other.loss >= one.loss)).length;

  /* The answer in the words of `moe-leverage fit` */
  function answer({ points, dense }) {
    const known = points.filter((p) => p.EL !== null);
    const short = (x) => (Number.isFinite(x) ? ml.parts.large(x) : "unbounded");
    if (!known.length) {
      const least = points.filter((p) => p.least).map((p) => p.least);
      const [side, bound] = least.length
        ? ["least", Math.max(...least)]
        : ["most", Math.min(...points.map((p) => p.most))];
      const where = side === "least" ? "below" : "above";
      return `Your mixtures save at ${side} a factor of ${short(bound)}: every loss of theirs is ${where} all dense ones, so there is a bound and no number.`;
    }
    const top = Math.max(...known.map((p) => p.C));
    const head = known.filter((p) => p.C >= 0.9 * top).reduce((a, b) => (b.EL > a.EL ? b : a));
    if (frontierSize(dense) < 3) {
      const sure = head.ends
        ? `noise alone moves that bound from ${short(head.ends[0])} to ${short(head.ends[1])}`
        : "these runs can give no interval";
      return `At ${short(head.C)} FLOPs your mixtures save at most a factor of ${short(head.EL)} over your dense runs: two dense budgets give a straight line, and a frontier that bends towards a loss floor lies below it, so that the line overstates what they save; ${sure}.`;
    }
    const range = head.ends
      ? ` (${short(head.ends[0])} to ${short(head.ends[1])}) over your dense runs`
      : " over your dense runs, for which these runs can give no interval";
    return `At ${short(head.C)} FLOPs your mixtures save a factor of ${short(head.EL)}${range}; one way of reading.`;
  }

  async function readFile(file) {
    if (file.size > LARGEST) throw new Error(`${file.name}: larger than 4 MB; ${COMMAND}`);
    if (!/\.(csv|tsv|txt)$/i.test(file.name))
      throw new Error(`${file.name}: drop a CSV or TSV; of other files ${COMMAND}`);
    const text = await file.text();
    if (text.includes("\u0000")) throw new Error(`${file.name}: is no text`);
    return read(text);
  }

  Object.assign(ml, { yourTable: { answer, cells, leverage, noise, normals, read, readFile } });
})();
