/* Draws formulas with MathJax on Node: a line of JSON in, {tex, display}, a line out: {drawn} or
   {error}. A drawing is an SVG without styles of its own beside the same formula as MathML, which
   is what a screen reader says and what is copied. */
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const mathjax = await createRequire(import.meta.url)("mathjax").init({
  loader: {
    versionWarnings: false,
    load: ["input/tex-full", "adaptors/liteDOM", "output/svg", "a11y/assistive-mml"],
  },
  options: { enableAssistiveMml: true },
  svg: { fontCache: "local" },
  tex: {
    // what it does not know is an error and no red word in the middle of a page
    packages: { "[-]": ["noerrors", "noundefined"] },
    formatError: (_, error) => {
      throw new Error(error.message);
    },
  },
  startup: { typeset: false },
});
const adaptor = mathjax.startup.adaptor;

/* Attributes that only MathJax's own scripts read */
const UNREAD =
  /^(?:data-|xmlns|role$|focusable$|unselectable$|stroke$|stroke-width$|columnspacing$)/;

function lighten(node) {
  if (adaptor.kind(node) === "#text") return;
  for (const { name, value } of [...adaptor.allAttributes(node)]) {
    if (name === "xlink:href") adaptor.setAttribute(node, "href", named(value));
    if (name === "id") adaptor.setAttribute(node, "id", named(value));
    if (name === "xlink:href" || UNREAD.test(name)) adaptor.removeAttribute(node, name);
  }
  for (const child of [...adaptor.childNodes(node)]) lighten(child);
  if (adaptor.kind(node) === "g" && !adaptor.allAttributes(node).length) {
    for (const child of [...adaptor.childNodes(node)]) adaptor.insert(child, node);
    adaptor.remove(node);
  }
}

/* A glyph is the same in every formula, so that a page needs it once */
const named = (id) => id.replace(/^(#?)MJX-\d+-TEX-/, "$1glyph-");

function draw({ tex, display }) {
  const container = mathjax.tex2svg(tex, { display, em: 16, ex: 8 });
  const [drawing, said] = adaptor.childNodes(container);
  const [math] = adaptor.childNodes(said);
  for (const part of [drawing, math]) lighten(part);
  return `${adaptor.outerHTML(drawing)}<span class="math-said">${adaptor.outerHTML(math)}</span>`;
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { drawn: draw(JSON.parse(line)) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
