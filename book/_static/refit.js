/* Equation (13) fitted to points of leverage: the procedure of analysis/optimise.py, fitting.py and
   bootstrap.py in plain JavaScript. A test holds both to the same optimum. theta = a, d, gamma, beta,
   ln A_start, ln A_max; the loss is Huber's of ln EL, minimised by damped Gauss-Newton steps. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const NAMES = ["a", "d", "gamma", "beta", "a_start", "a_max"];
  const SIZE = NAMES.length;
  const GRID = 8; // starts along each of A_start and A_max
  const SETTINGS = {
    iterations: 200,
    tolerance: 1e-10,
    damping: 0.1,
    blend: 1e-3,
    ridge: 1e-11,
    flat: 1e-10,
    largestDamping: 1e10,
    largestStep: 100,
  };

  const prepare = (points) =>
    points.map((p) => ({ A: p.A, c: Math.log10(p.C), g: Math.log2(p.G), y: Math.log(p.EL) }));

  /* ln A^ and its slopes by ln A_start and ln A_max (Equation 10) */
  function saturation(theta, A) {
    const [start, most] = [Math.exp(theta[4]), Math.exp(theta[5])];
    const offset = start < most ? 1 / (1 / start - 1 / most) : NaN;
    const share = 1 / (A + offset);
    const saturated = 1 / (share + 1 / most);
    const slope = saturated * (share * offset) * (share * offset);
    return [Math.log(saturated), slope / start, (saturated - slope) / most];
  }

  /* Residual and gradient of one row */
  function linearise(theta, row) {
    const [log, byStart, byMost] = saturation(theta, row.A);
    const exponent = theta[0] + theta[1] * row.c + (theta[2] * row.g + theta[3]) * row.g;
    return {
      r: exponent * log - row.y,
      slope: [
        log,
        log * row.c,
        log * row.g * row.g,
        log * row.g,
        exponent * byStart,
        exponent * byMost,
      ],
    };
  }

  function huber(r, delta) {
    const inside = Math.min(Math.abs(r), delta);
    return inside * (Math.abs(r) - 0.5 * inside);
  }

  function look(rows, theta, weights, delta) {
    const lines = rows.map((row) => linearise(theta, row));
    const value = lines.reduce((sum, { r }, i) => sum + weights[i] * huber(r, delta), 0);
    return { lines, value: Number.isFinite(value) ? value : Infinity };
  }

  /* Gaussian elimination with pivots of a small symmetric system */
  function solve(matrix, right) {
    const n = right.length;
    const m = matrix.map((row, i) => [...row, right[i]]);
    for (let k = 0; k < n; k++) {
      let pivot = k;
      for (let i = k + 1; i < n; i++) if (Math.abs(m[i][k]) > Math.abs(m[pivot][k])) pivot = i;
      [m[k], m[pivot]] = [m[pivot], m[k]];
      for (let i = k + 1; i < n; i++) {
        const factor = m[i][k] / m[k][k];
        for (let j = k; j <= n; j++) m[i][j] -= factor * m[k][j];
      }
    }
    const x = new Array(n).fill(0);
    for (let i = n - 1; i >= 0; i--) {
      x[i] = (m[i][n] - x.reduce((sum, v, j) => sum + (j > i ? m[i][j] * v : 0), 0)) / m[i][i];
    }
    return x;
  }

  /* The next step and the decrease that its quadratic model promises */
  function step(lines, weights, delta, damping) {
    const blend = Math.min(Math.max(damping, SETTINGS.blend), 1);
    const gradient = new Array(SIZE).fill(0);
    const matrix = gradient.map(() => new Array(SIZE).fill(0));
    lines.forEach(({ r, slope }, n) => {
      const size = Math.abs(r);
      const curvature = weights[n] * (size <= delta ? 1 : (blend * delta) / size);
      const pull = weights[n] * Math.max(-delta, Math.min(delta, r));
      for (let i = 0; i < SIZE; i++) {
        gradient[i] += pull * slope[i];
        for (let j = 0; j < SIZE; j++) matrix[i][j] += curvature * slope[i] * slope[j];
      }
    });
    const least = SETTINGS.flat * Math.max(...matrix.map((row, i) => row[i])) + Number.MIN_VALUE;
    const by = matrix.map((row, i) => 1 / Math.sqrt(Math.max(row[i], least)));
    const scaled = matrix.map((row, i) =>
      row.map((v, j) => (i === j ? 1 + SETTINGS.ridge + 1e-3 * damping : v * by[i] * by[j])),
    );
    const pull = gradient.map((v, i) => v * by[i]);
    const move = solve(scaled, pull).map((v) => -v);
    const largest = Math.max(...move.map((v, i) => Math.abs(v * by[i])));
    const share = SETTINGS.largestStep / Math.max(largest, SETTINGS.largestStep);
    const promised = -share * (1 - share / 2) * move.reduce((sum, v, i) => sum + v * pull[i], 0);
    return { move: move.map((v, i) => share * v * by[i]), promised };
  }

  function minimise(rows, start, weights, delta) {
    let theta = start;
    let at = look(rows, theta, weights, delta);
    let [damping, growth] = [SETTINGS.damping, 2];
    for (
      let i = 0;
      i < SETTINGS.iterations && Number.isFinite(at.value) && damping < SETTINGS.largestDamping;
      i++
    ) {
      const { move, promised } = step(at.lines, weights, delta, damping);
      const next = theta.map((v, k) => v + move[k]);
      const there = look(rows, next, weights, delta);
      const gain = promised > 0 ? (at.value - there.value) / promised : 0;
      const settled = promised <= SETTINGS.tolerance * at.value + Number.MIN_VALUE;
      if (gain > 1e-4 || (settled && there.value <= at.value)) {
        [theta, at] = [next, there];
        damping *= gain > 0.7 ? 0.1 : gain > 0.2 ? 0.5 : 2;
        growth = 2;
      } else {
        damping *= growth;
        growth *= 2;
      }
      if (settled) break;
    }
    return { theta, value: at.value };
  }

  /* A grid over A_start and A_max, the linear coefficients those of least squares given them */
  function starts(rows, box) {
    const along = ([low, high]) =>
      Array.from({ length: GRID }, (_, i) => low + ((i + 0.5) / GRID) * (high - low));
    return along(box[0]).flatMap((start) =>
      along(box[1])
        .filter((most) => most > start)
        .map((most) => {
          const slopes = rows.map((row) =>
            linearise([1, 1, 1, 1, start, most], row).slope.slice(0, 4),
          );
          const squares = [0, 1, 2, 3].map((i) =>
            [0, 1, 2, 3].map((j) => slopes.reduce((sum, s) => sum + s[i] * s[j], 0)),
          );
          const trace = squares.reduce((sum, row, i) => sum + row[i], 0);
          squares.forEach((row, i) => (row[i] += 1e-9 * trace));
          return [
            ...solve(
              squares,
              [0, 1, 2, 3].map((i) => slopes.reduce((sum, s, n) => sum + s[i] * rows[n].y, 0)),
            ),
            start,
            most,
          ];
        }),
    );
  }

  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  };
  const smallSample = (count) => Math.sqrt(count / Math.max(count - SIZE, 1));

  /* Why these points cannot tell the law's coefficients; empty if they can */
  function lacks(points, needed) {
    const axes = [
      ["A", "activation ratio"],
      ["G", "granularity"],
      ["C", "compute"],
    ];
    for (const [i, [key, name]] of axes.entries()) {
      const count = new Set(points.map((p) => p[key].toPrecision(5))).size;
      if (count < needed[i])
        return `The points have ${count} value${count === 1 ? "" : "s"} of ${name}; Equation 13 needs ${needed[i]} or more.`;
    }
    return points.length > SIZE
      ? ""
      : `${points.length} points cannot tell ${SIZE} coefficients; it takes ${SIZE + 1} or more.`;
  }

  const best = (ended) => ended.reduce((a, b) => (b.value < a.value ? b : a));

  /* The fit of Equation 13 to points {A, G, C, EL}, with the constants of `settings` (ml.refitData) */
  function fit(points, settings) {
    const rows = prepare(points);
    const even = rows.map(() => 1);
    const least = starts(rows, settings.startBox).map((start) =>
      minimise(rows, start, even, Infinity),
    );
    const residuals = look(rows, best(least).theta, even, Infinity).lines.map(({ r }) =>
      Math.abs(r),
    );
    const delta = Math.max(
      settings.efficiency * settings.sigma * median(residuals) * smallSample(rows.length),
      settings.smallestDelta,
    );
    const ended = least
      .filter((one) => Number.isFinite(one.value))
      .map((one) => minimise(rows, one.theta, even, delta))
      .filter((one) => Number.isFinite(one.value));
    const found = best(ended);
    return {
      rows,
      theta: found.theta,
      value: found.value,
      delta,
      law: lawOf(found.theta),
      minima: distinctMinima(ended, rows.length, settings),
      mostBend: settings.mostBend,
      widening: smallSample(rows.length) * settings.studentRatio[rows.length - SIZE - 1],
    };
  }

  /* How far one set of coefficients lies from another, in the one that differs most */
  const apart = (theta, from) =>
    Math.max(...theta.map((v, i) => Math.abs(v - from[i]) / (1 + Math.abs(from[i]))));
  const gap = (theta, minima) => Math.min(...minima.map((from) => apart(theta, from)));

  /* Where starts ended that the points cannot tell from the best, far apart, the best first */
  function distinctMinima(ended, count, { normal, apart: enough, mostMinima }) {
    const order = [...ended].sort((a, b) => a.value - b.value);
    const limit = order[0].value * Math.exp(normal ** 2 / count);
    const near = order.filter((one) => one.value <= limit).map((one) => one.theta);
    const chosen = [near[0]];
    while (chosen.length < mostMinima) {
      const gaps = near.map((theta) => gap(theta, chosen));
      const farthest = gaps.indexOf(Math.max(...gaps));
      if (gaps[farthest] < enough) break;
      chosen.push(near[farthest]);
    }
    return chosen;
  }

  /* One draw of the bootstrap: fitted again under weights from every such minimum, its distance from
     the nearest widened, except where the law would bend away or lose its meaning */
  function redraw(fitted, weights) {
    const { rows, delta, minima, widening, mostBend } = fitted;
    const { theta } = best(minima.map((start) => minimise(rows, start, weights, delta)));
    const near = minima.reduce((a, b) => (apart(theta, b) < apart(theta, a) ? b : a));
    const wide = near.map((v, i) => v + widening * (theta[i] - v));
    const moves = (to) =>
      Math.max(...rows.map((row) => Math.abs(linearise(to, row).r - linearise(near, row).r)));
    return lawOf(moves(wide) <= mostBend * widening * moves(theta) ? wide : theta);
  }

  const lawOf = (theta) =>
    Object.fromEntries(NAMES.map((name, i) => [name, i < 4 ? theta[i] : Math.exp(theta[i])]));

  /* Numbers from 0 to 1 from a seeded generator (mulberry32), so that a page draws the same again */
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /* Exponential weights */
  function generator(seed) {
    const next = uniform(seed);
    return (count) => Array.from({ length: count }, () => -Math.log(1 - next()));
  }

  Object.assign(ml, {
    refit: { NAMES, fit, generator, uniform, lacks, minimise, prepare, redraw, lawOf },
  });
})();
