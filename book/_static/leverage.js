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

  /* Matrices of one token's way through the model, grouped-query attention, no biases:
     parameters, and FLOPs a token under the convention `exact` */
  function count(m, sequence) {
    const attention = 2 * m.d_model * m.d_head * (m.num_heads + m.num_kv_heads);
    const scores = 4 * sequence * m.num_heads * m.d_head;
    const moeLayers = m.num_experts ? m.num_layers - m.num_dense_layers : 0;
    const denseLayers = m.num_layers - moeLayers;
    const expert = 3 * m.d_model * m.d_expert;
    const shared = m.num_shared_experts * expert;
    const router = m.d_model * m.num_experts;
    const norms = 2 * m.d_model * m.num_layers + m.d_model;
    const common =
      m.num_layers * attention +
      denseLayers * 3 * m.d_model * m.d_ffn +
      moeLayers * (router + shared);
    const active = common + moeLayers * m.num_active_experts * expert;
    const logits = m.d_model * m.vocab_size;
    return {
      total: common + moeLayers * m.num_experts * expert + norms,
      active: active + norms,
      vocabulary: 2 * logits,
      flopsPerToken: 2 * active + m.num_layers * scores + 2 * logits,
      nonEmbedding: 2 * active + m.num_layers * scores, // the paper's M
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
     `reach` times, or beyond the runs at all where they leave the axis open; null where it answers.
     `fitted` is a law of our own with its domain; a published one has no reach and always answers */
  function silence(fitted, point) {
    if (fitted.reach === undefined) return null;
    for (const [key, value] of Object.entries(point)) {
      const [low, high] = fitted.domain[key];
      const factor = Math.max(low / value, value / high);
      const isClosed = factor > 1 && fitted.closed.includes(key);
      if (factor > fitted.reach || isClosed) return { key, value, range: [low, high], factor };
    }
    return null;
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
    trainingCompute,
  });
})();
