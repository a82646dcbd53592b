/* Cards that say more of what is pointed at: a symbol or word of the notation, the run behind a
   plotted point. They answer to hover, focus and touch (the second tap follows the link), stay while
   the pointer is on them and close with Escape. Without scripts the links and their titles remain. */
"use strict";

(() => {
  const RUN = "svg.ml-figure a[href*='#run=']";
  const SUBJECTS = `a.symbol, ${RUN}`;
  const MOST_LINKS = 6; // in one card
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

  /* What the runs behind a mark have in common, or from where to where they reach */
  function reach(found, name, write) {
    const values = found.map((run) => run[name]).filter((value) => value !== null);
    const ends = [Math.min(...values), Math.max(...values)].map(write);
    return values.length ? [...new Set(ends)].join(" to ") : "";
  }

  const ROUTED = { moe: "mixture", dense: "dense" };
  function said(found) {
    if (!found.length) return "Not in the explorer.";
    const parts = [`${reach(found, "budget", number)} FLOPs`];
    parts.push(`A = ${reach(found, "A", (ratio) => number(100 * ratio))} %`);
    const routed = found.filter((run) => run.family !== "dense");
    if (routed.length) parts.push(`G = ${reach(routed, "G", number)}`);
    const loss = reach(found, "loss", (nats) => nats.toFixed(3));
    parts.push(loss ? `loss ${loss} nats` : found[0].status);
    const load = reach(routed, "load", (times) => times.toFixed(2));
    if (load) parts.push(`busiest expert ${load} times the mean`);
    else parts.push(routed.length ? "load not recorded" : "no routed experts");
    const leverage = reach(found, "EL", (times) => times.toFixed(2));
    if (leverage) parts.push(`EL = ${leverage}`);
    const families = [...new Set(found.map((run) => ROUTED[run.family]))].join(" and ");
    return `${families[0].toUpperCase()}${families.slice(1)}: ${parts.join(", ")}.`;
  }

  /* A link to each run, or to the first of them: the card of a mark may be pointed at itself */
  function links(names, page) {
    const text = document.createElement("span");
    text.append(names.length > MOST_LINKS ? `The first of ${names.length}: ` : "Open: ");
    for (const name of names.slice(0, MOST_LINKS)) {
      const link = document.createElement("a");
      link.href = new URL(`#run=${name}`, page).href;
      link.textContent = name;
      link.tabIndex = -1; // Enter on the mark opens the first
      text.append(link, " ");
    }
    return text;
  }

  function fill(link) {
    const title = document.createElement("strong");
    const text = document.createElement("span");
    const more = [];
    if (link.matches(RUN)) {
      const page = new URL(link.getAttribute("href"), location.href);
      const names = (link.dataset.runs || page.hash.split("=")[1]).split(" ");
      title.textContent = names.length > 1 ? `${names.length} runs` : `Run ${names[0]}`;
      more.push(" ", links(names, page));
      runs(page).then((known) => {
        text.textContent = said(names.map((name) => known.get(name)).filter(Boolean));
        if (shown === link) place(link);
      });
    } else {
      title.append(...[...link.childNodes].map((node) => node.cloneNode(true)));
      text.textContent = link.dataset.says;
    }
    card.replaceChildren(title, " ", text, ...more);
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
