/* One run in full: its loss curve beside its dense twin's, load, speed, config, and how to train it
   again. What the index lacks is loaded when the first run of a study is opened. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, drawn, large, percent, scale, frame } = ml.parts;
  const HERE = document.currentScript?.src;
  const waiting = {};

  /* The details of a study: a script put into the page, since a file may not be fetched from a file */
  function details(study) {
    const name = `details_${study.replaceAll("-", "_")}`;
    waiting[study] ||= new Promise((done, failed) => {
      const script = element("script", { src: new URL(`explorer-${study}.js`, HERE).href });
      script.addEventListener("load", () => done(ml[name]));
      script.addEventListener("error", () => {
        delete waiting[study];
        failed(new Error(script.src));
      });
      document.head.append(script);
    });
    return waiting[study];
  }

  async function whole(row) {
    const study = await details(row.studies[0]);
    const kept = study.runs[row.run];
    const steps =
      study.steps[String(kept.own["config.num_steps"] ?? study.common["config.num_steps"])];
    const curve = kept.curve.map((loss, i) => [(row.C * steps[i]) / steps[steps.length - 1], loss]);
    return { row, curve, load: kept.load, own: kept.own, common: study.common };
  }

  const kind = (row) =>
    row.family === "dense"
      ? "dense"
      : `mixture of experts, A = ${percent(row.A)}, G = ${large(row.G)}, S = ${percent(row.S)}`;

  function summary(row) {
    if (row.status !== "ok") return `This run ${row.status}; it has no final loss.`;
    const parts = [
      `Validation loss ${row.loss.toFixed(3)} ± ${large(row.error)} nats a token, ${row.bits.toFixed(3)} bits a byte.`,
    ];
    if (row.excess !== null) {
      const side = row.excess >= 0 ? "above" : "below";
      parts.push(
        `That is ${Math.abs(row.excess).toFixed(3)} nats ${side} the dense frontier at this compute.`,
      );
    }
    parts.push(...leverage(row));
    if (row.excluded) parts.push(`Left out of every fit: ${row.excluded}.`);
    return parts.join(" ");
  }

  /* EL with its interval, an end of which may be open, or the bound that the dense frontier leaves */
  function leverage(row) {
    if (row.EL_least !== null)
      return [
        `Its loss lies below the dense frontier: efficiency leverage at least ${large(row.EL_least)}.`,
      ];
    if (row.EL_most !== null)
      return [
        `Its loss lies above the dense frontier: efficiency leverage at most ${large(row.EL_most)}.`,
      ];
    if (row.EL === null) return [];
    const from = row.EL_low === null ? "without a lower end" : `from ${large(row.EL_low)}`;
    const to =
      row.EL_high === null
        ? "without an upper end, since the dense runs end before it"
        : `to ${large(row.EL_high)}`;
    return [`Efficiency leverage ${row.EL.toFixed(2)}, 90 % interval ${from} ${to}.`];
  }

  function curves(run, twin, width) {
    const height = Math.min(300, Math.max(220, width * 0.5));
    const box = { left: 46, right: width - 8, top: 8, bottom: height - 42 };
    const lines = [run, ...(twin ? [twin] : [])];
    const all = lines.flatMap((one) => one.curve);
    const x = scale(
      all.map((p) => p[0]),
      [box.left, box.right],
      true,
    );
    const y = scale(
      all.map((p) => p[1]),
      [box.bottom, box.top],
      false,
    );
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "ml-plot" });
    frame(svg, box, x, y, ["training compute spent, FLOPs", "training loss, nats"]);
    for (const one of [...lines].reverse()) {
      const place = ([c, loss], i) =>
        `${i ? "L" : "M"}${x.place(c).toFixed(1)},${y.place(loss).toFixed(1)}`;
      svg.append(
        drawn("path", {
          d: one.curve.map(place).join(""),
          class: `ml-line ml-c-${one === run ? run.row.family : "dense"}${one === run ? "" : " ml-twin"}`,
        }),
      );
    }
    const last = (one) => one.curve[one.curve.length - 1][1].toFixed(2);
    const ends = twin ? `; its dense twin ends at ${last(twin)}` : "";
    svg.setAttribute(
      "aria-label",
      `Training loss against compute: from ${run.curve[0][1].toFixed(2)} to ${last(run)} nats${ends}.`,
    );
    return svg;
  }

  function loads(load) {
    if (!load?.max_over_mean?.length) return [];
    const head = ["MoE layer", "Largest load over mean", "Entropy, 1 is even", "Idle experts"];
    const rows = load.max_over_mean.map((most, i) => [
      i + 1,
      most.toFixed(2),
      load.entropy[i].toFixed(3),
      load.idle_experts[i],
    ]);
    return [
      element("h4", {}, "Load of the experts"),
      scrolled("Load of the experts", "ml-scroll", grid(head, rows)),
      element("p", {}, gate(load)),
    ];
  }

  /* Whether this run keeps to what the gate of balance asks of a study */
  function gate({ max_over_mean, idle_experts }) {
    const { load, idle } = ml.explorer.gates;
    const most = Math.max(...max_over_mean);
    const unused = Math.max(...idle_experts);
    const holds = most <= load;
    const limit = `the gate of balance asks for at most ${load} times the mean, and ${percent(idle)} idle`;
    return `Busiest expert ${most.toFixed(2)} times the mean: ${holds ? "within" : "beyond"} what ${limit}${unused ? `; ${unused} of a layer are idle` : ""}.`;
  }

  /* The gates of the studies of a run, and of those that tuned and sized what it is compared with */
  function gates(row) {
    const { found, restsOn } = ml.explorer.gates;
    const named = [...new Set(row.studies.flatMap((study) => [study, ...(restsOn[study] || [])]))];
    const rows = named.flatMap((study) => (found[study] || []).map((one) => [study, one]));
    const bare = row.studies.filter((study) => !found[study]);
    const shut = rows.filter(([, one]) => !one.holds).length;
    const words = rows.length ? [`${rows.length - shut} of ${rows.length} hold.`] : [];
    if (bare.length) words.push(`No gate judges ${bare.join(" or ")} itself.`);
    return { rows, words: words.join(" ") };
  }

  /* A gate's own words, its run a link */
  function linked(detail) {
    const [before, run] = detail.split(/\b([0-9a-f]{12})$/);
    return run ? [before, element("a", { href: `#run=${run}` }, run)] : [before];
  }

  function gateTable(row) {
    const { rows, words } = gates(row);
    const head = ["Gate", "Study", "Result", "Figure", "Limit", "What was looked at"];
    const cells = rows.map(([study, { name, holds, figure, limit, detail }]) => [
      name,
      study,
      holds ? "holds" : "fails",
      figure === null ? "none" : large(figure),
      large(limit),
      element("span", {}, ...linked(detail)),
    ]);
    return [
      element("h4", {}, "Gates of its studies"),
      element("p", {}, `${words} A claim rests on these and on those of the searches.`),
      ...(rows.length
        ? [scrolled("Gates of its studies", "ml-scroll ml-gates", grid(head, cells))]
        : []),
    ];
  }

  /* A table that scrolls in its frame, which the keyboard reaches and a reader hears by name. */
  function scrolled(name, kind, table) {
    const frame = { class: kind, tabindex: "0", role: "region", "aria-label": name };
    return element("div", frame, table);
  }

  function grid(head, rows) {
    return element(
      "table",
      {},
      element(
        "thead",
        {},
        element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h))),
      ),
      element(
        "tbody",
        {},
        ...rows.map(([first, ...rest]) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, String(first)),
            ...rest.map((v) => element("td", {}, v instanceof Node ? v : String(v))),
          ),
        ),
      ),
    );
  }

  const shown = (value) =>
    typeof value === "number"
      ? Number.isInteger(value) && Math.abs(value) < 1e7
        ? value.toLocaleString("en")
        : large(value)
      : value === null
        ? "none"
        : String(value);

  function list(pairs) {
    return element(
      "dl",
      { class: "ml-facts" },
      ...pairs.flatMap(([k, v]) => [element("dt", {}, k), element("dd", {}, shown(v))]),
    );
  }

  const below = (facts, prefix) =>
    Object.entries(facts)
      .filter(([name]) => name.startsWith(`${prefix}.`))
      .map(([name, value]) => [name.slice(prefix.length + 1).replace(/^model\./, ""), value]);

  function sections(run) {
    const { row, own, common } = run;
    const all = { ...common, ...own };
    const counts = [
      ["C, training FLOPs", row.C],
      ["M, forward FLOPs a token", row.M],
      ["N, parameters", row.N],
      ["N_a, of them active", row.N_a],
      ["D, tokens", row.D],
      ["learning rate", row.eta],
      ["batch, tokens", row.B],
      ["seed", row.seed],
    ];
    const speed = [
      ["seconds", all["speed.seconds"]],
      ["tokens a second", all["speed.tokens_per_second"]],
      ["FLOPs a second", all["speed.flops_per_second"]],
      ["share of the measured peak", percent(all["speed.peak_share"])],
    ];
    const fold = (title, ...children) =>
      element("details", {}, element("summary", {}, title), ...children);
    return [
      element("h4", {}, "Size and settings"),
      list(counts),
      ...loads(run.load),
      ...gateTable(row),
      element("h4", {}, "Speed"),
      list(speed),
      fold(
        "Configuration",
        element("p", {}, `What sets this run apart within ${row.studies[0]}:`),
        list(below(own, "config")),
        element("p", {}, "What all runs there share:"),
        list(below(common, "config")),
      ),
      fold("Versions, machine and commit", list(below(all, "environment"))),
    ];
  }

  function again(row) {
    const command = `moe-leverage train --run ${row.run}`;
    const copy = element("button", { type: "button" }, "Copy");
    copy.addEventListener("click", () =>
      navigator.clipboard.writeText(command).then(() => (copy.textContent = "Copied")),
    );
    return [
      element("h4", {}, "Train it again"),
      element(
        "div",
        { class: "ml-command" },
        element("code", {}, command),
        navigator.clipboard ? copy : "",
      ),
    ];
  }

  /* The other seeds of a setting, each a link, and the mean of all */
  function repeats(row, seeds) {
    const others = seeds.filter((other) => other.run !== row.run);
    if (!others.length) return [];
    const links = others.flatMap((other) => [
      " ",
      element("a", { href: `#run=${other.run}` }, `seed ${other.seed}`),
      other.loss === null ? "" : ` ${other.loss.toFixed(3)}`,
    ]);
    const losses = seeds.map((other) => other.loss).filter((loss) => loss !== null);
    const mean = losses.reduce((a, b) => a + b, 0) / losses.length;
    const words = losses.length ? ` Mean of ${losses.length}: ${mean.toFixed(3)} nats.` : "";
    return [element("p", {}, "The same setting with", ...links, ".", words)];
  }

  /* Fill `root` with a run; `find` gives a row by its identity, `seeds` are all of its setting */
  async function open(root, row, find, seeds, close) {
    const heading = element("h3", { id: "ml-run-title", tabindex: "-1" }, `Run ${row.run}`);
    const button = element("button", { type: "button", class: "ml-close" }, "Close");
    button.addEventListener("click", close);
    const body = element("div", {}, element("p", { role: "status" }, "Loading the run …"));
    root.replaceChildren(
      element("div", { class: "ml-panel-head" }, heading, button),
      element(
        "p",
        { class: "ml-kind" },
        `${row.studies.join(", ")}: ${kind(row)}, ${large(row.C)} FLOPs, seed ${row.seed}.`,
      ),
      element("p", {}, summary(row)),
      ...repeats(row, seeds),
      body,
    );
    root.hidden = false;
    const twinRow = row.twin && find(row.twin);
    try {
      const [run, twin] = await Promise.all([whole(row), twinRow ? whole(twinRow) : null]);
      if (heading.isConnected) fill(body, run, twin, Math.max(280, body.clientWidth));
    } catch (error) {
      body.replaceChildren(
        element("p", { role: "alert" }, `The details could not be loaded (${error.message}).`),
      );
    }
  }

  function fill(body, run, twin, width) {
    const key = element(
      "ul",
      { class: "ml-key" },
      element("li", { class: `ml-c-${run.row.family}` }, "this run"),
    );
    if (twin) {
      key.append(
        element(
          "li",
          { class: "ml-c-dense ml-twin" },
          "dense twin ",
          element("a", { href: `#run=${twin.row.run}` }, twin.row.run),
          `, ${large(twin.row.C)} FLOPs`,
        ),
      );
    }
    const plot = run.curve.length > 1 ? [curves(run, twin, width), key] : [];
    body.replaceChildren(...plot, ...again(run.row), ...sections(run));
  }

  Object.assign(ml, { runPanel: { gates, open, kind } });
})();
