/* A reader's table in the page: a file dropped or chosen, the answer first, then every point. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, large, percent } = ml.parts;

  const HEADS = ["A", "G", "C, FLOPs", "loss", "EL", "90 % interval"];
  const known = (x, write = large) => (Number.isNaN(x) ? "–" : write(x));

  function row({ A, G, C, loss, EL, ends, least, most }) {
    const bound = least ? `at least ${large(least)}` : most ? `at most ${large(most)}` : large(EL);
    const range = ends ? `${large(ends[0])} to ${large(ends[1])}` : "–";
    const cells = [known(A, percent), known(G), large(C), loss.toFixed(3), bound, range];
    return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
  }

  function build(root, place) {
    const id = `your-table-${place}`;
    const file = element("input", { type: "file", id, accept: ".csv,.tsv,.txt,text/csv" });
    const problem = element("p", { class: "ml-problem", role: "alert" });
    const headline = element("output", { class: "ml-headline", for: id, "aria-live": "polite" });
    const notes = element("p", { class: "ml-map-text" });
    const table = element("table", { class: "ml-answers" });
    const frame = { class: "ml-scroll", tabindex: "0", role: "region", "aria-label": "Leverage" };
    root.classList.add("ml-calculator", "ml-your-table");
    root.replaceChildren(
      element("label", { for: id, class: "ml-file" }, "Drop a CSV of your runs here", file),
      problem,
      headline,
      notes,
      element("div", frame, table),
    );

    const refuse = (wrong) => {
      problem.textContent = wrong;
      root.classList.toggle("ml-invalid", Boolean(wrong));
    };

    async function take(given) {
      try {
        const { runs, unread, columns } = await ml.yourTable.readFile(given);
        const found = ml.yourTable.leverage(runs, ml.yourTable.normals);
        refuse("");
        headline.textContent = ml.yourTable.answer(found);
        const sure = Number.isNaN(found.noise)
          ? "Fewer than three repeated seeds tell no noise here; the command reads it from the dense curve. "
          : `Noise of ln loss ${large(found.noise)} between seeds, ${found.freedom} degrees of freedom. `;
        const seen = Object.entries(columns).map(([ours, theirs]) => `${theirs} is ${ours}`);
        const rest = unread.length
          ? `, but not ${unread.join(", ")}, by which the command tells settings apart`
          : "";
        notes.textContent = `${given.name}: ${runs.length} runs. ${sure}Read: ${seen.join(", ")}${rest}. The same with the floor of the frontier fitted, other ways of reading and every law: moe-leverage fit ${given.name}`;
        table.replaceChildren(
          element("caption", {}, "Leverage over the measured dense frontier, its floor at 0"),
          element(
            "thead",
            {},
            element("tr", {}, ...HEADS.map((h) => element("th", { scope: "col" }, h))),
          ),
          element("tbody", {}, ...found.points.map(row)),
        );
      } catch (error) {
        refuse(
          error.message.includes(given.name) ? error.message : `${given.name}, ${error.message}`,
        );
      }
      file.value = "";
    }
    file.addEventListener("change", () => file.files[0] && take(file.files[0]));
    ml.parts.dropped(root, take, refuse);
  }

  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("[data-your-table]").forEach(build),
  );
})();
