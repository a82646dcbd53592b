/* The theme's click handlers, kept out of the pages so that a strict security policy can be served. */
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-call]");
  if (button) window[button.dataset.call]();
});

/* What is wider than the page scrolls in its frame, which must then answer to the keyboard: code
   in a fold too, which the theme measured while it was closed, and a table that grows inside a frame
   that does not, as a filter's rows or a late font make it. */
const frames =
  ".highlight pre, .pst-scrollable-table-container, .cell_output, div.math, .ml-scroll";
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const frame = target.matches("table") ? target.closest(frames) : target;
    if (!frame) continue;
    makeReachable(frame);
    shade(frame);
  }
});

/* On which side more of a frame lies: a shade stands there */
function shade(frame) {
  const hidden = frame.scrollWidth - frame.clientWidth;
  frame.classList.toggle("ml-more-left", frame.scrollLeft > 1);
  frame.classList.toggle("ml-more-right", hidden - frame.scrollLeft > 1);
}

function makeReachable(frame) {
  if (frame.scrollWidth <= frame.clientWidth || frame.tabIndex >= 0) return;
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute(
    "aria-label",
    frame.querySelector("caption")?.textContent || "wide content, scrolls",
  );
}

function attend(frame) {
  watch.observe(frame);
  frame.addEventListener("scroll", () => shade(frame), { passive: true });
  for (const table of frame.querySelectorAll("table")) watch.observe(table);
}

/* The instruments make their tables later */
const grown = new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (node.nodeType !== Node.ELEMENT_NODE) continue;
    if (node.matches(".ml-scroll")) attend(node);
    for (const frame of node.querySelectorAll(".ml-scroll")) attend(frame);
  }
});

document.addEventListener("DOMContentLoaded", () => {
  for (const frame of document.querySelectorAll(frames)) attend(frame);
  grown.observe(document.body, { childList: true, subtree: true });
});

/* On paper a fold cannot be opened: what is part of the text prints open, and is as it was afterwards.
   Code that only draws, and a page's imports, stay folded unless the reader has opened them. */
const CODE_ALONE = /^(Code|Imports|Parameters)/;
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    if (CODE_ALONE.test(fold.querySelector("summary")?.textContent.trim() ?? "")) continue;
    fold.dataset.printed = "";
    fold.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const fold of document.querySelectorAll("details[data-printed]")) {
    fold.open = false;
    delete fold.dataset.printed;
  }
});

/* Excerpts of the search are of the text alone: no formulas, no code, no data of figures. */
const UNREAD = ".math, .highlight, .cell_input, svg, table, .eqno, dl.provenance";
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const whole = Search.htmlToText;
  Search.htmlToText = (page, anchor) => {
    const read = new DOMParser().parseFromString(page, "text/html");
    for (const node of read.querySelectorAll(UNREAD)) node.remove();
    const kept = anchor && read.querySelector(`[role="main"] ${anchor}`) ? anchor : undefined;
    return whole(read.documentElement.outerHTML, kept).replace(/\s+/g, " ");
  };
});

/* Opened from the disk, a page may not read another: search then lists its finds without excerpts. */
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
