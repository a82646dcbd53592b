/* Cards that say more of what is pointed at: a symbol or word of the notation, the run behind a
   plotted point. They answer to hover, focus and touch (the second tap follows the link), stay while
   the pointer is on them and close with Escape. Without scripts the links and their titles remain. */
"use strict";

(() => {
  const RUN = "svg.ml-figure a[href*='#run=']";
  const SUBJECTS = `a.symbol, ${RUN}`;
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const card = document.createElement("div");
  card.className = "ml-card";
  card.id = "ml-card";
  card.role = "tooltip";
  let shown = null; // what the card speaks of
  let tapped = null; // what it spoke of when a finger came down, where one did

  /* The index of the explorer, fetched when a run is first pointed at */
  let index = null;
  function runs(page) {
    index ??= new Promise((done) => {
      const read = () => {
        const { columns, rows } = window.moeLeverage.explorer;
        const named = (row) => Object.fromEntries(columns.map((name, i) => [name, row[i]]));
        done(new Map(rows.map((row) => [row[0], named(row)])));
      };
      if (window.moeLeverage?.explorer) return read();
      const script = document.createElement("script");
      script.src = new URL("../_static/explorer-data.js", page);
      script.addEventListener("load", read);
      document.head.append(script);
    });
    return index;
  }

  const number = (x) =>
    Math.abs(x) >= 1e4 ? x.toExponential(1) : String(Number(x.toPrecision(3)));

  function said(run) {
    if (!run) return "Not in the explorer.";
    const parts = [`${number(run.budget)} FLOPs`, `A = ${number(100 * run.A)} %`];
    if (run.family !== "dense") parts.push(`G = ${number(run.G)}`);
    parts.push(run.loss === null ? run.status : `loss ${run.loss.toFixed(3)} nats`);
    if (run.EL !== null) parts.push(`EL = ${run.EL.toFixed(2)}`);
    return `${run.family === "dense" ? "Dense" : "Mixture"}: ${parts.join(", ")}. Load and curve: open it.`;
  }

  function fill(link) {
    const title = document.createElement("strong");
    const text = document.createElement("span");
    if (link.matches(RUN)) {
      const name = link.getAttribute("href").split("#run=")[1];
      title.textContent = `Run ${name}`;
      runs(new URL(link.getAttribute("href"), location.href)).then((known) => {
        text.textContent = said(known.get(name));
        if (shown === link) place(link);
      });
    } else {
      title.append(...[...link.childNodes].map((node) => node.cloneNode(true)));
      text.textContent = link.dataset.says;
    }
    card.replaceChildren(title, " ", text);
  }

  function place(link) {
    const at = link.getBoundingClientRect();
    const [width, height] = [card.offsetWidth, card.offsetHeight];
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8));
    const below = at.bottom + height < window.innerHeight;
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${(below ? at.bottom : at.top - height) + scrollY}px`;
  }

  function show(link) {
    if (link === shown) return;
    close();
    shown = link;
    fill(link);
    document.body.append(card);
    link.setAttribute("aria-describedby", card.id);
    place(link);
  }

  function close() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    card.remove();
  }

  /* A page that scrolls to what has the focus moves under the pointer: that closes no card */
  const hasFocus = () => shown !== null && shown === document.activeElement;

  function point(event) {
    const link = event.target.closest?.(SUBJECTS);
    if (link) show(link);
    else if (!card.contains(event.target) && (event.type === "focusin" || !hasFocus())) close();
  }

  /* One stop of the tabulator a figure, arrows from point to point in the order of reading */
  function step(event) {
    const link = event.target.closest?.(RUN);
    if (!link || !(event.key in STEPS)) return;
    const place = (other) => other.getBoundingClientRect().left;
    const all = [...link.ownerSVGElement.querySelectorAll("a[href*='#run=']")];
    const ordered = all.map((a) => [place(a), a]).sort(([a], [b]) => a - b);
    const here = ordered.findIndex(([, a]) => a === link) + STEPS[event.key];
    const next = ordered[here]?.[1];
    event.preventDefault();
    if (!next) return;
    link.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  }

  document.addEventListener("mouseover", point);
  document.addEventListener("focusin", point);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else step(event);
  });
  document.addEventListener("pointerdown", (event) => {
    tapped = event.pointerType === "touch" ? { before: shown } : null;
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.(SUBJECTS);
    if (!link || !tapped || tapped.before === link) return;
    event.preventDefault();
    show(link);
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const link of document.querySelectorAll("a.symbol")) {
      link.dataset.says = link.title; // or the browser's own tip would stand over the card
      if (link.querySelector("svg")) link.ariaLabel = link.title; // a formula is no name by itself
      link.removeAttribute("title");
    }
    for (const figure of document.querySelectorAll("svg.ml-figure"))
      figure.querySelector("a[href*='#run=']")?.setAttribute("tabindex", "0");
  });
})();
