/* What the interactive pages build with: elements, numbers as a reader writes them, axes of a plot. */
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  function furnish(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false)
        node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  const element = (name, attributes, ...children) =>
    furnish(document.createElement(name), attributes, children);
  const drawn = (name, attributes, ...children) =>
    furnish(document.createElementNS(SVG, name), attributes, children);
  const text = (x, y, content, anchor) =>
    drawn("text", { x, y, "text-anchor": anchor || "middle" }, content);

  /* Three digits, as a power of ten where it is very large or small; a dash where there is none */
  function large(x) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    if (!Number.isFinite(x)) return "unbounded";
    if (x === 0) return "0";
    const exponent = Math.floor(Math.log10(Math.abs(x) * 1.0005));
    if (exponent >= -3 && exponent < 5) return String(Number(x.toPrecision(3))).replace("-", "−");
    const digits = Number((x / 10 ** exponent).toPrecision(3));
    const raised = String(Math.abs(exponent)).replace(/\d/g, (d) => SUPERSCRIPTS[d]);
    const power = `10${exponent < 0 ? "⁻" : ""}${raised}`;
    return digits === 1 ? power : `${digits} × ${power}`.replace("-", "−");
  }

  const percent = (x) => (x === null ? "–" : `${Number((100 * x).toPrecision(2))} %`);

  /* A scale from values to places, with ticks that suit it */
  function scale(values, places, log) {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (!values.length) [low, high] = log ? [1, 10] : [0, 1];
    const [f, back] = log ? [Math.log10, (v) => 10 ** v] : [(v) => v, (v) => v];
    let [a, b] = [f(low), f(high)];
    const room = (b - a) * 0.05 || (log ? 0.15 : Math.abs(a) * 0.05 || 0.5);
    [a, b] = [a - room, b + room];
    const place = (v) => places[0] + ((f(v) - a) / (b - a)) * (places[1] - places[0]);
    return { place, ticks: ticks(back(a), back(b), log) };
  }

  function ticks(low, high, log) {
    if (log && high / low > 3) {
      const first = Math.floor(Math.log10(low));
      const decades = Array.from(
        { length: Math.ceil(Math.log10(high)) - first + 1 },
        (_, i) => first + i,
      );
      const between = high / low < 50 ? [1, 2, 5] : high / low < 2000 ? [1, 3] : [1];
      return decades
        .flatMap((d) => between.map((m) => Number(`${m}e${d}`)))
        .filter((v) => v >= low && v <= high);
    }
    const span = high - low;
    const unit = 10 ** Math.floor(Math.log10(span / 4));
    const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => span / s <= 6);
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) =>
      Number(((first + i) * step).toPrecision(12)),
    );
  }

  /* Grid, ticks and names of both axes, in the units of the screen so that text keeps its size */
  function frame(svg, box, x, y, names) {
    const grid = drawn("g", { class: "ml-grid" });
    const words = drawn("g", { class: "ml-ticks" });
    let taken = -Infinity;
    for (const v of x.ticks) {
      grid.append(drawn("line", { x1: x.place(v), x2: x.place(v), y1: box.top, y2: box.bottom }));
      const [place, half] = [x.place(v), large(v).length * 3.6];
      if (place - half < taken || place + half > box.right + 14) continue; // no two on one another
      taken = place + half + 4;
      words.append(text(place, box.bottom + 17, large(v)));
    }
    for (const v of y.ticks) {
      grid.append(drawn("line", { x1: box.left, x2: box.right, y1: y.place(v), y2: y.place(v) }));
      words.append(text(box.left - 6, y.place(v) + 4, large(v), "end"));
    }
    words.append(text((box.left + box.right) / 2, box.bottom + 35, names[0]));
    const side = text(0, 0, names[1]);
    side.setAttribute("transform", `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`);
    words.append(side);
    svg.append(grid, words);
  }

  const MARKERS = [
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "M-4,-4h8v8h-8z",
    "M0,-5.2L5,4H-5z",
    "M0,-5.6L5.6,0L0,5.6L-5.6,0z",
    "M0,5.2L5,-4H-5z",
    "M-1.6,-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
  ];
  const CIRCLE = 0,
    SQUARE = 1;

  /* "1e22", "10^22", "3.2 × 10²¹", "12,000", "3.1 %" or "12 T" as a number; NaN when it is none. A
     comma stands between thousands alone: that of "0,031" would turn it into 31 */
  const WRITTEN =
    /^([-+]?)(?:10\^([-+]?\d+)|([1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:e([-+]?\d+)|[×x*·]10\^?([-+]?\d+))?)([kmbgt%]?)$/i;
  const SIZES = { "": 0, "%": -2, k: 3, m: 6, b: 9, g: 9, t: 12 }; // as powers of ten
  function parse(text) {
    const plain = String(text)
      .replace(/[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+/g, (raised) =>
        ["^", ...raised]
          .map((d) => (d === "⁻" ? "-" : d === "^" ? d : SUPERSCRIPTS.indexOf(d)))
          .join(""),
      )
      .replace("−", "-")
      .replace(/[\s_]/g, "")
      .replace(/(tokens?|flops?|param(eter)?s?)$/i, "");
    const [found, sign, power, digits, e, times, size] = WRITTEN.exec(plain) || [];
    if (found === undefined) return NaN;
    const exponent = Number(power || e || times || 0) + SIZES[size.toLowerCase()];
    return Number(`${sign}${(digits || "1").replaceAll(",", "")}e${exponent}`);
  }

  /* The values of one address: after #, and never more than one of a kind */
  const address = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

  /* A value as an address has it: 1e22, since the plus of 1e+22 would become %2B */
  const written = (value) =>
    typeof value === "number" ? String(value).replace("e+", "e") : String(value);

  /* Puts the values of one instrument, which knows these keys, into the address; what others of the
     page have there stays. Without values nothing of it is left. */
  function remember(keys, values, isNewPlace) {
    const kept = Object.entries(address()).filter(([key, value]) => value && !keys.includes(key));
    const own = keys.filter((key) => ![undefined, null, ""].includes(values[key]));
    const words = new URLSearchParams([...kept, ...own.map((key) => [key, written(values[key])])]);
    const place = `${location.href.split("#")[0]}${kept.length + own.length ? `#${words}` : ""}`;
    history[isNewPlace ? "pushState" : "replaceState"](null, "", place);
  }

  /* What an address asked for and this build has not, [key, value] each, as a sentence; else none */
  function leftAside(asked) {
    const words = asked.map(([key, value]) => `${key} = ${value.slice(0, 40)}`).join(", ");
    return words && ` The address asks for ${words}: not in this build, and left aside.`;
  }

  /* Files dropped anywhere on `root`: the one there is goes to `take`, more than one are refused */
  function dropped(root, take, refuse) {
    const isFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    root.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
    root.addEventListener("drop", (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      const { files } = event.dataTransfer;
      if (files.length === 1) take(files[0]);
      else refuse(`${files.length} files: drop one.`);
    });
  }

  window.moeLeverage = Object.assign(window.moeLeverage || {}, {
    parts: {
      element,
      drawn,
      text,
      large,
      percent,
      scale,
      frame,
      parse,
      address,
      written,
      remember,
      leftAside,
      dropped,
      MARKERS,
      CIRCLE,
      SQUARE,
    },
  });
})();
