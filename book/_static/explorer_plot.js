/* The plot of the explorer: a mark a run or setting, the dense frontier of the chapters, and the key
   of colours and markers. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, drawn, large, percent, scale, frame } = ml.parts;
  const { MARKERS, CIRCLE, SQUARE } = ml.parts;
  const { QUANTITIES } = ml.explorerView;
  const HUES = ["measured", "accent", "moe", "ink", "dense", "muted"];

  /* How a run is drawn: [colour class, marker, name in the key] */
  function look(row, by, studies) {
    if (by === "study") {
      const i = studies.indexOf(row.studies[0]);
      return [
        HUES[(i + Math.floor(i / MARKERS.length)) % HUES.length],
        i % MARKERS.length,
        row.studies[0],
      ];
    }
    if (row.family === "dense") return ["dense", SQUARE, "dense"];
    return by === "A" ? [`a${row.shade}`, CIRCLE, `A = ${percent(row.A)}`] : ["moe", CIRCLE, "MoE"];
  }

  const told = ({ run, runs }) => (runs.length > 1 ? `${run}, mean of ${runs.length} seeds` : run);

  /* The drawing of these marks for a page so wide, and the items of its key */
  function draw(marks, { x, y, colour }, studies, room) {
    const width = Math.max(280, room || 640);
    const height = Math.round(Math.min(440, Math.max(300, width * 0.6)));
    const box = { left: 54, right: width - 12, top: 10, bottom: height - 44 };
    const points = marks.filter(
      (row) => row[x] !== null && row[y] !== null && !(QUANTITIES[x][1] && row[x] <= 0),
    );
    const across = scale(
      points.map((row) => row[x]),
      [box.left, box.right],
      QUANTITIES[x][1],
    );
    const line = frontier(x, y, points);
    const up = scale(
      [...points.flatMap((row) => row.ends || [row[y]]), ...line.map((place) => place[1])],
      [box.bottom, box.top],
      QUANTITIES[y][1],
    );
    const svg = drawn("svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      class: "ml-plot",
    });
    frame(svg, box, across, up, [QUANTITIES[x][0], QUANTITIES[y][0]]);
    const keys = new Map();
    if (line.length) {
      const path = line.map(
        ([u, v], i) => `${i ? "L" : "M"}${across.place(u).toFixed(1)},${up.place(v).toFixed(1)}`,
      );
      svg.append(drawn("path", { d: path.join(""), class: "ml-line ml-twin ml-c-dense" }));
    }
    for (const row of points.filter((mark) => mark.ends)) {
      const [at, ends] = [across.place(row[x]), row.ends.map(up.place)];
      const [hue] = look(row, colour, studies);
      const spread = { x1: at, x2: at, y1: ends[0], y2: ends[1], class: `ml-spread ml-c-${hue}` };
      svg.append(drawn("line", spread));
    }
    for (const row of points) {
      const [hue, marker, name] = look(row, colour, studies);
      keys.set(name, [hue, marker, row]);
      const place = `translate(${across.place(row[x]).toFixed(1)} ${up.place(row[y]).toFixed(1)})`;
      svg.append(
        drawn(
          "path",
          {
            d: MARKERS[marker],
            transform: place,
            class: `ml-dot ml-c-${hue}`,
            "data-run": row.run,
            "data-config": row.runs.length > 1 ? row.config : null,
          },
          drawn(
            "title",
            {},
            `${told(row)}: ${ml.runPanel.kind(row)}, ${QUANTITIES[y][0]} ${large(row[y])}`,
          ),
        ),
      );
    }
    const span = (key) =>
      points.length
        ? `${large(Math.min(...points.map((r) => r[key])))} to ${large(Math.max(...points.map((r) => r[key])))}`
        : "no value";
    svg.setAttribute(
      "aria-label",
      `${points.length} marks: ${QUANTITIES[x][0]} from ${span(x)}, ${QUANTITIES[y][0]} from ${span(y)}. The table below lists them.`,
    );
    return { svg, key: legend(keys, colour) };
  }

  /* The dense frontier of the chapters in this view: its places, or the level that it stands for */
  function frontier(x, y, points) {
    if (x === "C" && y === "loss") return ml.explorer.frontier;
    const level = { EL: 1, excess: 0 }[y];
    if (level === undefined || !points.length) return [];
    const values = points.map((row) => row[x]);
    return [Math.min(...values), Math.max(...values)].map((value) => [value, level]);
  }

  function legend(keys, colour) {
    const ordered = [...keys].sort(([, a], [, b]) => (colour === "A" ? a[2].A - b[2].A : 0));
    return [
      element("li", { class: "ml-frontier ml-c-dense" }, "dense frontier of the chapters"),
      ...ordered.map(([name, [hue, marker]]) =>
        element(
          "li",
          {},
          drawn(
            "svg",
            { viewBox: "-7 -7 14 14", "aria-hidden": "true", class: `ml-swatch ml-c-${hue}` },
            drawn("path", { d: MARKERS[marker] }),
          ),
          name,
        ),
      ),
    ];
  }

  ml.explorerPlot = { draw };
})();
