/* The leverage calculator's arithmetic: what a reader may enter, what is wrong with it, and what the
   laws say of it, as rows of a table and as sentences. calculator_page.js has the form. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { large } = ml.parts;
  const LEVEL = 0.9;
  const NOT_HERE = "not at this scale";
  const NOT_DECIDED = "not decided";

  const number = (key, label, low, high, start, ticks) => ({ key, label, low, high, start, ticks });
  const whole = (key, label, low) => ({ key, label, low, high: 1e16, whole: true });
  /* each axis of the law, and the ways in which it may be given; the first is the axis itself */
  const AXES = [
    {
      key: "C",
      label: "Training budget",
      ways: [
        {
          name: "compute",
          fields: [
            number("C", "Compute C, FLOPs", 1e10, 1e27, 1e22, [1e10, 1e14, 1e18, 1e22, 1e26]),
          ],
        },
        {
          name: "tokens",
          fields: [number("D", "Tokens D", 1e3, 1e16, 1e12, [1e4, 1e7, 1e10, 1e13, 1e16])],
        },
      ],
    },
    {
      key: "A",
      label: "Activation ratio",
      ways: [
        {
          name: "ratio",
          fields: [number("A", "Ratio A, 0.031 or 3.1 %", 0.001, 1, 0.031, [0.001, 0.01, 0.1, 1])],
        },
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
        {
          name: "ratio",
          fields: [number("G", "G = 2 d_model / d_expert", 0.25, 128, 12, [0.25, 1, 4, 16, 64])],
        },
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
  /* what a config may have besides, which is counted and told but has no field of its own */
  const EXTRAS = {
    kv_rank: "latent attention of rank",
    q_rank: "query rank",
    d_head_nope: "head width without position",
    d_head_rope: "with position",
    d_head_value: "of values",
    d_shared: "width of the shared experts",
    qk_norm: "norms of queries and keys",
    attention_bias: "biases of attention",
    attention_output_bias: "bias of its output",
    attention_sinks: "attention sinks",
    ffn_bias: "biases of the experts",
    router_bias: "bias of the router",
    tie_embeddings: "tied embeddings",
  };
  const FLAGS = /bias|sinks|tie|norm/;

  function complaint(field, value) {
    if (!Number.isFinite(value))
      return `${field.label}: not a number. Write 1e22, 10^22, 12 T or 3.1 %; decimals need a point.`;
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

  /* The point of the law that the fields in use give, and the model's counts if they give a shape;
     `counts` are those of a model that only the package can count */
  function located(m, counts) {
    const counted = counts || ("num_layers" in m ? ml.count(m, m.sequence_length) : null);
    const { A, G } = ml.axes({ num_experts: 1, d_model: 1, ...m });
    const perToken = counted && ml.data.passes * counted.flopsPerToken;
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
      isDense: Boolean(counted) && !counts && !m.num_experts,
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

  /* What stands in a cell in place of a value of ours, by why the law is silent */
  const instead = (silent) => ({ value: null, word: silent?.failing ? NOT_DECIDED : NOT_HERE });

  function unless(fitted, point, value) {
    const silent = ml.silence(fitted, point);
    return silent ? instead(silent) : { value };
  }

  /* A power law of a side at a compute: NaN where there is none, null where it is silent there */
  function power(side, name, compute) {
    const law = side.laws[name];
    if (!law) return { value: NaN };
    if (compute.value === null) return compute;
    return unless(law, { compute: compute.value }, ml.powerLaw(law, compute.value));
  }

  /* Rows of the table: a name, and for each side a value and perhaps its range; a value is null
     where the law is silent, NaN where there is none */
  function answers(state, by, isFull) {
    const { A, G, C, D, counted, isDense } = state;
    const spread = (factor) =>
      by.map((s) =>
        s.value === null
          ? instead(s.silent)
          : { value: factor * s.value, range: s.range?.map((x) => factor * x) },
      );
    const half = (cells) =>
      cells.map((cell) => (cell.value === null ? cell : { value: cell.value / 2 }));
    const once = (value) => by.map((_, i) => ({ value: i ? NaN : value }));
    const evens = (s) => {
      const compute = ml.breakEvenCompute(s.law, A, G);
      return unless(s, { activation_ratio: A, granularity: G, compute }, compute);
    };
    const finest = (s) => {
      const granularity = ml.optimumGranularity(s.law);
      return unless(s, { granularity }, granularity);
    };
    const rows = [
      ["Efficiency leverage EL", spread(1), leverageText],
      ["Dense compute of equal loss, FLOPs", spread(C)],
    ];
    if (isFull && counted) {
      const dense = spread(counted.nonEmbedding);
      rows.push(
        ["Equal-loss dense model on the same D: M, FLOPs a token", dense],
        ["its parameters, at most M / 2", half(dense)],
      );
    }
    rows.push(["Break-even compute, FLOPs", by.map(evens)]);
    if (!isFull) return rows;
    rows.push(
      ["Granularity of highest EL", by.map(finest)],
      ["Learning rate, MoE", by.map((s) => power(s, "learning_rate", { value: C }))],
      ["Batch, MoE, tokens", by.map((s) => power(s, "batch_tokens", { value: C }))],
    );
    if (!counted) return rows;
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

  /* The best split of the budget between model and data, for the mixture and for the dense model of
     equal loss: a column a reading of Table 1's M, and one of our own runs, which know M by count */
  function allocations({ A, C }, by) {
    const [published, measured] = by;
    const readings = Object.values(ml.data.readings);
    const part = (name, family, ratio, compute) => {
      const cells = readings.map((passes) =>
        ml.split(published.laws, family, compute(published).value, passes),
      );
      if (measured) {
        const at = compute(measured);
        const [model, tokens] = ["model", "tokens"].map((side) =>
          power(measured, `${family}_${side}`, at),
        );
        const silent = [model, tokens].find((cell) => cell.value === null);
        cells.push(silent || { model: model.value, tokens: tokens.value });
      }
      const row = (label, value) => [
        `${name}: ${label}`,
        cells.map((c) => (c.value === null ? c : { value: value(c) })),
      ];
      const isSparse = ratio < 1;
      const sizes = [
        row(`${isSparse ? "active " : ""}parameters, at most M / 2`, (c) => c.model / 2),
      ];
      if (isSparse) sizes.push(row("all parameters, at most M / 2A", (c) => c.model / (2 * ratio)));
      return [
        row("M, forward FLOPs a token", (c) => c.model),
        row("tokens D", (c) => c.tokens),
        ...sizes,
        row("3 M D, FLOPs of its training", (c) => ml.data.passes * c.model * c.tokens),
      ];
    };
    const mixture = part("MoE", "moe", A, () => ({ value: C }));
    const dense = part("Dense of equal loss", "dense", 1, (s) =>
      s.value === null ? instead(s.silent) : { value: s.value * C },
    );
    return [...(A < 1 ? mixture : []), ...dense];
  }

  const leverageText = (x) => (x < 0.01 || x >= 1e4 ? large(x) : x.toFixed(2));
  const ranged = (range, format) => (range ? ` (${format(range[0])} to ${format(range[1])})` : "");

  function said([published, measured], { A }) {
    if (A >= 1) return "A dense model: EL = 1 by definition.";
    const told = (s) => `EL = ${leverageText(s.value)}${ranged(s.range, leverageText)}`;
    const meaning =
      published.value >= 1
        ? `a dense model needs ${leverageText(published.value)} times the compute for the same loss`
        : "a dense model reaches the same loss with less compute";
    const first = `${told(published)} by the published law: ${meaning}.`;
    if (!measured) return first;
    if (measured.silent?.failing) return `${first} Our own law is ${NOT_DECIDED}.`;
    if (measured.value === null) return `${first} Our own law says nothing at this scale.`;
    return `${first} Our own law${measured.in_domain ? "" : ", extrapolated,"} says ${told(measured)}.`;
  }

  const SYMBOLS = { activation_ratio: "A", granularity: "G", compute: "C" };
  const apart = (symbol, { value, range }) =>
    `${symbol} = ${large(value)} outside ${large(range[0])} to ${large(range[1])}`;

  /* Why a law of our own has no value here */
  function unsaid({ silent, reach }) {
    if (silent.failing)
      return `${NOT_DECIDED}: of the gates of its runs fail: ${silent.failing.join(", ")}.`;
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

  /* The extras of a shape in words */
  function besides(m) {
    const there = Object.keys(EXTRAS).filter((key) => m[key]);
    return there
      .map((key) => (FLAGS.test(key) ? EXTRAS[key] : `${EXTRAS[key]} ${m[key]}`))
      .join(", ");
  }

  ml.calculator = {
    AXES,
    SHAPE,
    EXTRAS,
    LEVEL,
    allocations,
    answers,
    besides,
    complaint,
    contradiction,
    instead,
    leverageText,
    located,
    ranged,
    said,
    sides,
    standing,
  };
})();
