/* The laws and the accounting of the package, again in plain JavaScript, for pages without a kernel.
   A test evaluates both on one grid and holds them equal to a relative 1e-9; the coefficients are
   written at build into leverage-data.js. Symbols: A activation ratio, G granularity, C compute. */
"use strict";

(() => {
  const log2 = (x) => Math.log(x) / Math.LN2;
  const log10 = (x) => Math.log(x) / Math.LN10;

  /* Equation (10): 1/A^ = 1/(A + 1/(1/A_start - 1/A_max)) + 1/A_max */
  function saturatedActivationRatio(law, A) {
    const shift = 1 / (1 / law.a_start - 1 / law.a_max);
    return 1 / (1 / (A + shift) + 1 / law.a_max);
  }

  function granularityTerm(law, G) {
    const g = log2(G);
    return law.gamma * g * g + law.beta * g;
  }

  /* Equation (13): A^ to the power a + d log10 C + gamma (log2 G)^2 + beta log2 G */
  function jointLaw(law, A, G, C) {
    const exponent = law.a + law.d * log10(C) + granularityTerm(law, G);
    return Math.exp(exponent * Math.log(saturatedActivationRatio(law, A)));
  }

  /* EL by a joint law: 1 by definition where all experts are active, Equation (13) below */
  const leverage = (law, A, G, C) => (A >= 1 ? 1 : jointLaw(law, A, G, C));

  /* The C at which the exponent of (13) vanishes, so that EL = 1; NaN where EL falls with C */
  function breakEvenCompute(law, A, G) {
    if (Math.log(saturatedActivationRatio(law, A)) * law.d <= 0) return NaN;
    return 10 ** (-(law.a + granularityTerm(law, G)) / law.d);
  }

  function optimumGranularity(law) {
    return law.gamma > 0 ? 2 ** (-law.beta / (2 * law.gamma)) : NaN;
  }

  const powerLaw = (law, C) => law.coefficient * C ** law.exponent;
  const computeFor = (law, value) => (value / law.coefficient) ** (1 / law.exponent);

  /* The order statistic nearest to the q-quantile, since some samples may be infinite; of two that
     are as near the even one, as in NumPy */
  function quantile(sorted, q) {
    const place = q * (sorted.length - 1);
    const below = Math.floor(place);
    const up = place - below > 0.5 || (place - below === 0.5 && below % 2 === 1);
    return sorted[below + (up ? 1 : 0)];
  }

  /* Central interval of EL over bootstrap samples, rows of coefficients in the order of `law` */
  function interval(law, samples, A, G, C, level) {
    if (!samples || samples.length === 0) return null;
    const names = Object.keys(law);
    const values = samples
      .map((row) => jointLaw(Object.fromEntries(names.map((n, i) => [n, row[i]])), A, G, C))
      .sort((x, y) => x - y);
    return [quantile(values, (1 - level) / 2), quantile(values, (1 + level) / 2)];
  }

  /* The paper's axes of a shape (Section 2.1) */
  function axes(m) {
    if (!m.num_experts) return { A: 1, S: 0, G: (2 * m.d_model) / m.d_ffn };
    const active = m.num_active_experts + m.num_shared_experts;
    return {
      A: active / (m.num_experts + m.num_shared_experts),
      S: m.num_shared_experts / active,
      G: (2 * m.d_model) / m.d_expert,
    };
  }

  /* Parameters, and FLOPs of one token's forward pass under the convention `exact`, of a shape in
     the words of ModelConfig: flat, what is absent counts as 0, `qk_norm` 1 by head and 2 by width.
     Multi-token prediction is left out, as `moe-leverage explain` does */
  function count(m, sequence) {
    const of = (name) => m[name] || 0;
    const [d, heads, kv] = [m.d_model, m.num_heads, m.num_kv_heads];
    const isLatent = of("kv_rank") > 0;
    const dQuery = heads * (of("d_head_nope") + of("d_head_rope"));
    const compressed = of("q_rank") + of("kv_rank") + of("d_head_rope");
    const grouped = 2 * d * m.d_head * (heads + kv);
    const latent = () =>
      (m.q_rank ? m.q_rank * (d + dQuery) : d * dQuery) +
      d * (m.kv_rank + m.d_head_rope) +
      m.kv_rank * heads * (m.d_head_nope + m.d_head_value) +
      heads * m.d_head_value * d;
    const attention = isLatent ? latent() : grouped;
    const extras =
      of("attention_bias") * (isLatent ? compressed : m.d_head * (heads + 2 * kv)) +
      of("attention_output_bias") * d +
      of("attention_sinks") * heads;
    const byNorm = [0, 2 * m.d_head, m.d_head * (heads + kv)][of("qk_norm")];
    const norms = 2 * d + (isLatent ? of("q_rank") + of("kv_rank") : byNorm);
    const width =
      heads * (isLatent ? m.d_head_nope + m.d_head_rope + m.d_head_value : 2 * m.d_head);
    const scores = 2 * sequence * width;
    const isMoe = m.num_experts > 0;
    const moeLayers = isMoe ? m.num_layers - m.num_dense_layers : 0;
    const denseLayers = m.num_layers - moeLayers;
    const shared = isMoe ? of("d_shared") || m.num_shared_experts * m.d_expert : 0;
    const ffn = (w) => 3 * d * w + (w > 0 ? of("ffn_bias") * (2 * w + d) : 0);
    const expert = isMoe ? ffn(m.d_expert) : 0;
    const router = isMoe ? m.num_experts * (d + of("router_bias")) : 0;
    const common =
      m.num_layers * (attention + extras + norms) +
      d +
      denseLayers * ffn(m.d_ffn) +
      moeLayers * (router + ffn(shared));
    const logits = d * m.vocab_size;
    const nonEmbedding = // the paper's M
      m.num_layers * (2 * attention + scores) +
      moeLayers *
        (isMoe ? 2 * d * m.num_experts + 6 * d * (m.num_active_experts * m.d_expert + shared) : 0) +
      denseLayers * 6 * d * m.d_ffn;
    return {
      total: common + moeLayers * (isMoe ? m.num_experts * expert : 0),
      active: common + moeLayers * (isMoe ? m.num_active_experts * expert : 0),
      vocabulary: of("tie_embeddings") ? logits : 2 * logits,
      flopsPerToken: nonEmbedding + 2 * logits,
      nonEmbedding,
    };
  }

  /* M of one forward pass and D that Table 1 gives a budget if its M holds so many passes */
  function split(laws, family, C, passes) {
    return {
      model: powerLaw(laws[`${family}_model`], C) / passes,
      tokens: powerLaw(laws[`${family}_tokens`], C),
    };
  }

  const trainingCompute = (m, sequence, tokens) => 3 * count(m, sequence).flopsPerToken * tokens;

  /* Which of the quantities leave the ranges of the runs behind a law, the output included */
  function outside(domain, A, G, C, EL) {
    const found = {
      activation_ratio: ["A", A],
      granularity: ["G", G],
      compute: ["C", C],
      efficiency_leverage: ["EL", EL],
    };
    return Object.entries(found)
      .filter(([key, [, x]]) => domain[key] && (x < domain[key][0] || x > domain[key][1]))
      .map(([key, [symbol, value]]) => ({ key, symbol, value, range: domain[key] }));
  }

  /* Least and most EL over all laws whose coefficients round to the printed ones: over the corners */
  function roundingRange(law, rounding, A, G, C) {
    const corners = Object.entries(rounding).reduce(
      (laws, [name, half]) =>
        laws.flatMap((one) => [-half, half].map((by) => ({ ...one, [name]: one[name] + by }))),
      [law],
    );
    const values = corners.map((one) => leverage(one, A, G, C));
    return [Math.min(...values), Math.max(...values)];
  }

  /* The first axis along which a point lies further from the runs of a law than it answers: beyond
     `reach` times, or beyond the runs at all where they leave the axis open; else the gates of its
     runs that fail, if any; null where it answers. `fitted` is a law of our own with its domain; a published one has no reach and always answers */
  function silence(fitted, point) {
    if (fitted.reach === undefined) return null;
    for (const [key, value] of Object.entries(point)) {
      const [low, high] = fitted.domain[key];
      const factor = Math.max(low / value, value / high);
      const isClosed = factor > 1 && fitted.closed.includes(key);
      if (factor > fitted.reach || isClosed) return { key, value, range: [low, high], factor };
    }
    return fitted.failing.length ? { key: null, failing: fitted.failing } : null;
  }

  /* What a law says of a point, in the words of the package's JSON; `beyond` is what makes it an
     extrapolation, `silent` why a measured law says nothing */
  function published({ law, domain, rounding }, A, G, C) {
    const value = leverage(law, A, G, C);
    const beyond = A >= 1 ? [] : outside(domain, A, G, C, value);
    return {
      value,
      in_domain: !beyond.length,
      rounding_range: roundingRange(law, rounding, A, G, C),
      beyond,
    };
  }

  function measured(side, A, G, C, level) {
    if (A >= 1) return { value: 1, interval: null, in_domain: true, beyond: [], silent: null };
    const silent = silence(side, { activation_ratio: A, granularity: G, compute: C });
    const ends = silent ? null : interval(side.law, side.samples, A, G, C, level);
    if (!ends?.every(Number.isFinite)) {
      return {
        value: null,
        interval: null,
        in_domain: false,
        beyond: [],
        silent: silent || { key: null },
      };
    }
    const value = leverage(side.law, A, G, C);
    const beyond = outside(side.domain, A, G, C, value);
    return { value, interval: ends, in_domain: !beyond.length, beyond, silent: null };
  }

  window.moeLeverage = Object.assign(window.moeLeverage || {}, {
    axes,
    breakEvenCompute,
    computeFor,
    count,
    interval,
    jointLaw,
    leverage,
    measured,
    optimumGranularity,
    outside,
    powerLaw,
    published,
    quantile,
    roundingRange,
    saturatedActivationRatio,
    silence,
    split,
    trainingCompute,
  });
})();
