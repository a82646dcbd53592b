/* The form of the refit: which points of leverage Equation (13) is fitted to, what it then says, and
   a cloud of refits to resampled points, made in pieces so that the page stays answering. What it
   draws is in refit_plot.js. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, large, percent, address, remember, leftAside } = ml.parts;
  const [DRAWS, PIECE, PAUSE, SEED, LEVEL] = [200, 4, 200, 1, 0.9]; // resamples, at once, ms before a fit
  const KEYS = ["refit", "at_A", "at_C"]; // points unlike the book's, and what is drawn
  const LABELS = { a: "a", d: "d", gamma: "γ", beta: "β", a_start: "A_start", a_max: "A_max" };

  const unique = (values) => [...new Set(values)].sort((a, b) => a - b);

  class Refit {
    constructor(root) {
      this.root = root;
      this.points = ml.refitData.points.map((p) => ({ ...p, kept: p.fitted }));
      if (!this.points.length) {
        root.replaceChildren(
          element(
            "p",
            { class: "ml-said" },
            "The fits of this build hold no point of leverage yet: the studies of activation ratio and granularity have not run far enough. There is nothing to refit; the form appears here as soon as there is.",
          ),
        );
        return;
      }
      this.name();
      this.build();
      window.addEventListener("popstate", () => this.follow()); // also on a link to another #
      this.follow();
    }

    /* Each point under a name that outlives a build: its first run, or its place where runs repeat */
    name() {
      const first = this.points.map((p) => p.runs[0]);
      this.points.forEach((p, i) => {
        p.id = first.filter((run) => run === first[i]).length === 1 ? first[i] : String(i);
      });
    }

    /* Take the state from the address: the points that are kept or left unlike in the book */
    follow() {
      const given = address();
      const unlike = (given.refit || "").split(",").filter(Boolean);
      const known = this.points.map((p) => p.id);
      const unknown = unlike.filter((id) => !known.includes(id)).map((id) => ["refit", id]);
      this.points.forEach((p) => (p.kept = p.fitted !== unlike.includes(p.id)));
      for (const [select, key] of [
        [this.ratio, "at_A"],
        [this.compute, "at_C"],
      ]) {
        const wanted = [...select.options].findIndex((o) => o.value === given[key]);
        select.selectedIndex = wanted < 0 ? select.options.length >> 1 : wanted;
        if (given[key] && wanted < 0) unknown.push([key, given[key]]);
      }
      this.aside.textContent = leftAside(unknown).trim();
      this.aside.hidden = !unknown.length;
      this.start();
    }

    keep() {
      const unlike = this.points.filter((p) => p.kept !== p.fitted).map((p) => p.id);
      const drawn = (select) =>
        select.selectedIndex === select.options.length >> 1 ? "" : select.value;
      const values = {
        refit: unlike.join(","),
        at_A: drawn(this.ratio),
        at_C: drawn(this.compute),
      };
      remember(KEYS, values);
    }

    build() {
      const view = (name, label, values, words) => {
        const select = element(
          "select",
          { id: `refit-${name}`, name },
          ...values.map((v) => element("option", { value: String(v) }, words(v))),
        );
        select.addEventListener("change", () => {
          this.keep();
          this.draw();
        });
        return [select, element("label", { for: select.id }, label, select)];
      };
      const [ratio, ratioLabel] = view(
        "A",
        "at activation ratio",
        unique(this.points.map((p) => p.A)),
        percent,
      );
      const [compute, computeLabel] = view(
        "C",
        "at compute, FLOPs",
        unique(this.points.map((p) => p.C)),
        large,
      );
      Object.assign(this, {
        ratio,
        compute,
        boxes: element("fieldset", {}, element("legend", {}, "Fit to the points of")),
      });
      const reset = element("button", { type: "button" }, "As in the book");
      reset.addEventListener("click", () => {
        this.points.forEach((p) => (p.kept = p.fitted));
        this.changed();
      });
      this.studyBoxes = unique(this.points.map((p) => p.study || "unnamed")).map((study) =>
        this.studyBox(study),
      );
      this.boxes.append(...this.studyBoxes.map((b) => b.parentNode), reset);
      this.said = element("p", { class: "ml-said", role: "status" });
      this.aside = element("p", { class: "ml-kind", role: "status", hidden: "" });
      this.progress = element("p", { class: "ml-kind" });
      this.laws = element("table", {});
      this.plot = element("div", { class: "ml-canvas" });
      this.list = element("table", { class: "ml-points" });
      const scroll = (name, table, tall) =>
        element(
          "div",
          {
            class: `ml-scroll${tall ? " ml-tall" : ""}`,
            tabindex: "0",
            role: "region",
            "aria-label": name,
          },
          table,
        );
      this.root.replaceChildren(
        this.boxes,
        this.aside,
        this.said,
        this.progress,
        scroll("Coefficients", this.laws),
        element(
          "fieldset",
          {},
          element("legend", {}, "Draw the law over granularity"),
          ratioLabel,
          computeLabel,
        ),
        this.plot,
        element(
          "ul",
          { class: "ml-key" },
          element("li", { class: "ml-c-measured" }, "refit, and its cloud of resamples"),
          element("li", { class: "ml-c-published ml-twin" }, "published law"),
          element("li", {}, "circles: points near this A and C, open where left out"),
        ),
        element(
          "details",
          {},
          element("summary", {}, "Points, one by one"),
          scroll("Points", this.list, true),
        ),
      );
      this.listPoints();
      new ResizeObserver(
        () => this.width !== this.plot.clientWidth && this.fitted && this.draw(),
      ).observe(this.plot);
    }

    studyBox(study) {
      const box = element("input", { type: "checkbox", name: study });
      box.addEventListener("change", () => {
        this.points
          .filter((p) => (p.study || "unnamed") === study)
          .forEach((p) => (p.kept = box.checked));
        this.changed();
      });
      element("label", { class: "ml-check" }, box, ` ${study}`);
      return box;
    }

    listPoints() {
      const head = ["kept", "A", "G", "C, FLOPs", "EL", "90 % interval", "study", "run"];
      const row = (p) => {
        p.box = element("input", {
          type: "checkbox",
          "aria-label": `keep A ${percent(p.A)}, G ${large(p.G)}, C ${large(p.C)}`,
        });
        p.box.addEventListener("change", () => {
          p.kept = p.box.checked;
          this.changed();
        });
        const run = p.runs.length ? element("a", { href: `#run=${p.runs[0]}` }, p.runs[0]) : "–";
        const cells = [
          percent(p.A),
          large(p.G),
          large(p.C),
          p.EL.toFixed(2),
          `${large(p.low)} to ${large(p.high)}`,
          [p.study, p.variant].filter(Boolean).join(", ") || "–",
          run,
        ];
        return element(
          "tr",
          {},
          element("td", {}, p.box),
          ...cells.map((c) => element("td", {}, c)),
        );
      };
      this.list.replaceChildren(
        element(
          "thead",
          {},
          element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h))),
        ),
        element("tbody", {}, ...this.points.map(row)),
      );
    }

    changed() {
      this.keep();
      this.start();
    }

    /* Show what is kept, then fit once the reader pauses */
    start() {
      for (const box of this.studyBoxes) {
        const own = this.points.filter((p) => (p.study || "unnamed") === box.name);
        box.checked = own.every((p) => p.kept);
        box.indeterminate = !box.checked && own.some((p) => p.kept);
      }
      this.points.forEach((p) => (p.box.checked = p.kept));
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.fit(), PAUSE);
    }

    fit() {
      const kept = this.points.filter((p) => p.kept);
      const isBook = ml.refitData.hasBook && this.points.every((p) => p.kept === p.fitted);
      if (isBook) return void this.showBook(kept.length);
      const why = ml.refit.lacks(kept, ml.refitData.needed);
      this.fitted = why ? null : ml.refit.fit(kept, ml.refitData);
      this.cloud = [];
      this.isWhole = false;
      this.progress.textContent = "";
      if (why) {
        this.said.textContent = why;
        this.plot.replaceChildren();
        this.laws.replaceChildren();
        return;
      }
      this.draw();
      this.tell(kept.length);
      this.resample(this.fitted, ml.refit.generator(SEED), kept.length);
    }

    /* The points of the book: its own fit and draws, which have the error of the dense frontier too */
    showBook(count) {
      const { law, samples } = ml.data.measured;
      this.fitted = { law };
      this.cloud = samples.map((row) =>
        Object.fromEntries(Object.keys(law).map((name, i) => [name, row[i]])),
      );
      this.isWhole = true;
      this.progress.textContent = `The book's own fit, with ${samples.length} of its draws.`;
      this.draw();
      this.tell(count);
    }

    resample(fitted, weights, count) {
      if (fitted !== this.fitted) return; // the reader has changed the points
      for (let i = 0; i < PIECE; i++)
        this.cloud.push(ml.refit.redraw(fitted, weights(fitted.rows.length)));
      this.progress.textContent = `${this.cloud.length} of ${DRAWS} resamples.`;
      if (this.cloud.length < DRAWS)
        this.timer = setTimeout(() => this.resample(fitted, weights, count), 0);
      else {
        this.isWhole = true;
        this.draw();
        this.tell(count);
      }
    }

    range(value) {
      if (!this.isWhole) return null;
      const sorted = this.cloud
        .map(value)
        .map((v) => (Number.isNaN(v) ? Infinity : v))
        .sort((a, b) => a - b);
      return [(1 - LEVEL) / 2, (1 + LEVEL) / 2].map((q) => ml.quantile(sorted, q));
    }

    tell(count) {
      const words = (r) => (r ? ` (${large(r[0])} to ${large(r[1])})` : "");
      const best = ml.optimumGranularity(this.fitted.law);
      const optimum = Number.isNaN(best)
        ? "EL has no highest granularity"
        : `EL is highest at G = ${large(best)}${words(this.range(ml.optimumGranularity))}`;
      this.said.textContent = `Fitted to ${count} of ${this.points.length} points: ${optimum}.`;
      const others = [
        ["Published", ml.data.published],
        ["In the book", ml.data.measured],
      ]
        .filter(([, side]) => side?.law)
        .map(([name, side]) => [name, side.law]);
      const cell = (v) => element("td", {}, v);
      const rows = ml.refit.NAMES.map((name) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, LABELS[name]),
          ...others.map(([, law]) => cell(large(law[name]))),
          cell(large(this.fitted.law[name]) + words(this.range((law) => law[name]))),
        ),
      );
      rows.push(
        element(
          "tr",
          {},
          element("th", { scope: "row" }, "G of highest EL"),
          ...others.map(([, law]) => cell(large(ml.optimumGranularity(law)))),
          cell(large(best) + words(this.range(ml.optimumGranularity))),
        ),
      );
      this.laws.replaceChildren(
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            element("th", { scope: "col" }, "Coefficient"),
            ...others.map(([name]) => element("th", { scope: "col" }, name)),
            element("th", { scope: "col" }, "Refit, with 90 % interval"),
          ),
        ),
        element("tbody", {}, ...rows),
      );
    }

    draw() {
      if (!this.fitted) return;
      this.width = this.plot.clientWidth;
      const place = { A: Number(this.ratio.value), C: Number(this.compute.value) };
      const laws = { own: this.fitted.law, cloud: this.cloud };
      this.plot.replaceChildren(ml.refitPlot.draw(this.points, place, laws, this.width));
    }
  }

  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("[data-refit]").forEach((root) => new Refit(root)),
  );
})();
