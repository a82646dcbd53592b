/* The plot of the refit: EL over granularity at one A and C, the refit with the cloud of its resamples,
   the published law, and the points near by. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { drawn, large, percent, scale, frame } = ml.parts;
  const CURVE = 41; // points of a drawn curve

  function draw(points, { A, C }, { own: law, cloud }, room) {
    const width = Math.max(280, room || 640);
    const height = Math.round(Math.min(400, Math.max(280, width * 0.55)));
    const box = { left: 46, right: width - 12, top: 10, bottom: height - 44 };
    const near = points.filter((p) => Math.abs(p.A / A - 1) < 0.05 && Math.abs(p.C / C - 1) < 0.1);
    const ends = [Math.min(...points.map((p) => p.G)), Math.max(...points.map((p) => p.G))];
    const across = Array.from(
      { length: CURVE },
      (_, i) => ends[0] * (ends[1] / ends[0]) ** (i / (CURVE - 1)),
    );
    const heights = (one) => across.map((G) => ml.jointLaw(one, A, G, C));
    const [own, published] = [heights(law), heights(ml.data.published.law)];
    const x = scale(across, [box.left, box.right], true);
    const y = scale([...own, ...published, ...near.map((p) => p.EL)], [box.bottom, box.top], true);
    const path = (values) =>
      values
        .map(
          (v, i) =>
            `${i ? "L" : "M"}${x.place(across[i]).toFixed(1)},${Math.min(Math.max(y.place(v), -99), 999).toFixed(1)}`,
        )
        .join("");
    const svg = drawn("svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      class: "ml-plot",
    });
    const clip = drawn(
      "clipPath",
      { id: "refit-clip" },
      drawn("rect", {
        x: box.left,
        y: box.top,
        width: box.right - box.left,
        height: box.bottom - box.top,
      }),
    );
    svg.append(clip);
    frame(svg, box, x, y, ["granularity G", "efficiency leverage EL"]);
    const inside = drawn("g", { "clip-path": "url(#refit-clip)" });
    inside.append(
      drawn("path", {
        d: cloud.map((one) => path(heights(one))).join(""),
        class: "ml-cloud ml-c-measured",
      }),
      drawn("path", { d: path(published), class: "ml-line ml-twin ml-c-published" }),
      drawn("path", { d: path(own), class: "ml-line ml-c-measured" }),
      ...near.map((p) =>
        drawn("circle", {
          cx: x.place(p.G),
          cy: y.place(p.EL),
          r: 4.5,
          class: `ml-near ml-c-measured${p.kept ? " ml-kept" : ""}`,
        }),
      ),
    );
    svg.append(inside);
    svg.setAttribute(
      "aria-label",
      `EL over granularity at A = ${percent(A)} and C = ${large(C)} FLOPs: the refit goes from ${own[0].toFixed(2)} at G = ${large(ends[0])} to ${own[own.length - 1].toFixed(2)} at G = ${large(ends[1])}, the published law from ${published[0].toFixed(2)} to ${published[published.length - 1].toFixed(2)}.`,
    );
    return svg;
  }

  ml.refitPlot = { draw };
})();
