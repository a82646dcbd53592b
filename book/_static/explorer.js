/* The explorer of the ledger: filters, a plot (explorer_plot.js), a table, and the panel of one run
   (run_panel.js). The address holds what is chosen, so that any view and any run can be linked: #run=...&study=...&y=... */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { element, large, percent, address, remember, leftAside } = ml.parts;
  const { BETWEEN, COLOURS, COLUMNS, FAMILIES, FILTERS, KEPT, KEYS, MARKS, chosen } =
    ml.explorerView;
  const { NARROW, QUANTITIES, START, X, Y, keysOf, marked, questions, rows, same, valueIn } =
    ml.explorerView;

  function choice(name, label, options, state, changed) {
    const id = `explorer-${name}`;
    const select = element(
      "select",
      { id, name },
      ...options.map(([value, words]) => element("option", { value }, words)),
    );
    select.value = state[name] || "";
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.addEventListener("change", () => changed(name, select.value));
    return element("label", { for: id }, label, select);
  }

  function optionsOf(all, key) {
    const found = new Map(
      all.flatMap((row) =>
        keysOf(row, key).map((k) => [k, key === "study" ? k : k === BETWEEN ? Infinity : row[key]]),
      ),
    );
    const ordered = [...found].sort(([, a], [, b]) => (typeof a === "number" ? a - b : 0));
    const words = (k, v) =>
      k === BETWEEN
        ? k
        : key === "A"
          ? percent(v)
          : key === "family"
            ? FAMILIES[v]
            : typeof v === "number"
              ? large(v)
              : k;
    return [["", "all"], ...ordered.map(([k, v]) => [k, words(k, v)])];
  }

  /* A number as the menus write it: "1e12" in an address is their "1000000000000" */
  const inMenus = (value) =>
    value.trim() && Number.isFinite(Number(value)) ? same(Number(value)) : value;

  class Explorer {
    constructor(root) {
      this.all = rows();
      this.questions = questions(this.all);
      this.byRun = new Map(this.all.map((row) => [row.run, row]));
      this.studies = Object.keys(ml.explorer.studies);
      this.root = root;
      this.said = element("p", { class: "ml-said", role: "status" });
      this.plot = element("div", { class: "ml-canvas" });
      this.key = element("ul", { class: "ml-key", "aria-label": "Colours and markers" });
      this.panel = element("section", {
        class: "ml-panel",
        "aria-labelledby": "ml-run-title",
        hidden: true,
      });
      this.table = element("table", { class: "ml-runs" });
      this.form = element("form", { class: "ml-filters", "aria-label": "What is shown" });
      const scroll = {
        class: "ml-scroll ml-tall",
        tabindex: "0",
        role: "region",
        "aria-label": "Table of runs",
      };
      root.replaceChildren(
        this.form,
        this.said,
        this.plot,
        this.key,
        this.panel,
        element("div", scroll, this.table),
      );
      this.listen();
      this.follow(false);
    }

    listen() {
      this.form.addEventListener("submit", (event) => event.preventDefault());
      window.addEventListener("popstate", () => this.follow(true)); // also on a link to another #
      this.root.addEventListener("keydown", (event) => this.pressed(event));
      this.root.addEventListener("click", (event) => {
        const named = event.target.closest("[data-run], a[href^='#run=']");
        if (!named || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        this.openRun(named.dataset.run || named.getAttribute("href").slice(5));
      });
      new ResizeObserver(() => this.width !== this.plot.clientWidth && this.draw()).observe(
        this.plot,
      );
    }

    /* Take the state from the address */
    follow(isLater) {
      const given = address();
      const own = Object.entries(given).filter(([key]) => KEYS.includes(key));
      const [asked, all] = [Object.fromEntries(own), { ...START }];
      for (const [key, value] of own) all[key] = key in FILTERS ? inMenus(value) : value;
      this.state = all;
      const unknown = this.unknown();
      for (const key of unknown) this.state[key] = START[key] ?? "";
      this.buildForm();
      this.update();
      this.said.append(leftAside(unknown.map((key) => [key, asked[key]])));
      if (this.byRun.has(given.run)) this.showRun(true);
      else if (given.run)
        this.said.textContent = `The ledger of this build holds no run ${given.run}.`;
      else if (isLater) this.panel.hidden = true;
    }

    /* What the address asks for and no menu has */
    unknown() {
      const menus = { x: X, y: Y, colour: Object.keys(COLOURS), marks: Object.keys(MARKS) };
      const may = { ...menus, sort: COLUMNS.map(([key]) => key), excluded: ["1"], down: ["1"] };
      for (const key of Object.keys(FILTERS))
        may[key] = this.all.flatMap((row) => keysOf(row, key));
      return Object.keys(may).filter(
        (key) =>
          this.state[key] && this.state[key] !== START[key] && !may[key].includes(this.state[key]),
      );
    }

    remember(isNewPlace) {
      const differs = Object.entries(this.state).filter(([key, value]) => value !== START[key]);
      remember(KEYS, Object.fromEntries(differs), isNewPlace);
    }

    /* Another view from its beginning: a question, or all runs */
    view(values) {
      const { run } = this.state;
      this.state = { ...START, ...values, ...(run ? { run } : {}) };
      this.remember(false);
      this.buildForm();
      this.update();
    }

    buildForm() {
      const changed = (name, value) => {
        this.state[name] = value;
        this.remember(false);
        this.update();
        const question = this.form.querySelector("#explorer-question");
        if (question) question.value = "";
      };
      const quantities = (keys) => keys.map((key) => [key, QUANTITIES[key][0]]);
      const group = (title, ...fields) =>
        element("fieldset", {}, element("legend", {}, title), ...fields);
      const everything = element("button", { type: "button" }, "Show all runs");
      everything.addEventListener("click", () => {
        this.view({ marks: "runs", excluded: "1" });
        this.form.querySelector("button").focus();
      });
      const isAsked = ([, values]) =>
        [...KEYS].every(
          (key) =>
            key === "run" || (this.state[key] ?? "") === ({ ...START, ...values }[key] ?? ""),
        );
      const asked = Object.entries(this.questions).find(([, entry]) => isAsked(entry))?.[0] || "";
      const names = Object.entries(this.questions).map(([key, [words]]) => [key, words]);
      const question = choice(
        "question",
        "Question",
        [["", "a view of one's own"], ...names],
        { question: asked },
        (_, key) => {
          if (!key) return;
          this.view(this.questions[key][1]);
          this.form.querySelector("#explorer-question").focus();
        },
      );
      const box = element("input", { type: "checkbox", id: "explorer-excluded" });
      box.checked = Boolean(this.state.excluded);
      box.addEventListener("change", () => changed("excluded", box.checked ? "1" : ""));
      const excluded = element(
        "label",
        { class: "ml-check", for: box.id },
        box,
        "and excluded runs",
      );
      this.form.replaceChildren(
        element("div", { class: "ml-question" }, question),
        group(
          "Axes and marks",
          choice("x", "Across", quantities(X), this.state, changed),
          choice("y", "Up", quantities(Y), this.state, changed),
          choice("colour", "Colour by", Object.entries(COLOURS), this.state, changed),
          choice("marks", "A mark is", Object.entries(MARKS), this.state, changed),
        ),
        group(
          "Only runs of",
          ...Object.entries(FILTERS).map(([key, label]) =>
            choice(key, label, optionsOf(this.all, key), this.state, changed),
          ),
          excluded,
          everything,
        ),
      );
    }

    update() {
      this.marks = marked(chosen(this.all, this.state), this.state);
      this.shown = this.marks.flatMap((mark) => mark.runs);
      this.draw();
      this.list();
      const without = this.marks.filter((mark) => mark[this.state.y] === null).length;
      const name = QUANTITIES[this.state.y][0];
      const missing = without
        ? ` ${without} of them have no value of “${name}” and stand in the table alone.`
        : "";
      const marks =
        this.state.marks === "runs"
          ? ""
          : ` in ${this.marks.length} marks: ${MARKS[this.state.marks]}`;
      this.said.textContent = `${this.shown.length} of ${this.all.length} runs${marks}.${missing}`;
    }

    draw() {
      this.width = this.plot.clientWidth;
      const { svg, key } = ml.explorerPlot.draw(this.marks, this.state, this.studies, this.width);
      this.plot.replaceChildren(svg);
      this.key.replaceChildren(...key);
      this.mark();
    }

    list() {
      const { sort, down } = this.state;
      const order = down ? -1 : 1;
      const compare = (a, b) => {
        const [u, v] = [valueIn(a, sort), valueIn(b, sort)];
        if (u === null || v === null) return (u === null) - (v === null); // what is missing comes last
        return order * (typeof u === "number" ? u - v : String(u).localeCompare(String(v)));
      };
      const differs = ([key]) => new Set(this.shown.map((row) => String(row[key]))).size > 1;
      const isNarrow = this.root.clientWidth < 900;
      const columns = COLUMNS.filter(
        (column) =>
          KEPT.includes(column[0]) ||
          (differs(column) && !(isNarrow && NARROW.includes(column[0]))),
      );
      const head = element("tr", {}, ...columns.map(([key, name]) => this.header(key, name)));
      const body = element(
        "tbody",
        {},
        ...[...this.shown].sort(compare).map((row) => {
          const link = element("a", { href: `#run=${row.run}`, tabindex: "-1" }, row.run);
          return element(
            "tr",
            { "data-run": row.run },
            element("th", { scope: "row" }, link),
            ...columns.slice(1).map(([, , show]) => element("td", {}, show(row))),
          );
        }),
      );
      this.table.replaceChildren(
        element(
          "caption",
          {},
          "Runs of the ledger; columns in which all agree are left out. Enter opens one, arrow keys walk.",
        ),
        element("thead", {}, head),
        body,
      );
      const first = body.querySelector("a");
      if (first) first.tabIndex = 0;
      this.mark();
    }

    header(key, name) {
      const isSorted = this.state.sort === key;
      const button = element("button", { type: "button", "data-sort": key }, name);
      button.addEventListener("click", () => {
        this.state.down = isSorted && !this.state.down ? "1" : "";
        this.state.sort = key;
        this.remember(false);
        this.list();
        this.table.querySelector(`[data-sort="${key}"]`).focus();
      });
      return element(
        "th",
        {
          scope: "col",
          "aria-sort": isSorted ? (this.state.down ? "descending" : "ascending") : null,
        },
        button,
      );
    }

    /* Which run is open, and its twin, in the plot and in the table */
    mark() {
      const row = this.byRun.get(this.state.run);
      for (const node of this.root.querySelectorAll("[data-run]")) {
        const shows = (run) =>
          Boolean(run) &&
          (node.dataset.run === run.run || node.dataset.config === String(run.config));
        node.classList.toggle("ml-open", shows(row));
        node.classList.toggle("ml-beside", shows(this.byRun.get(row?.twin)));
      }
    }

    openRun(run) {
      if (!this.byRun.has(run)) return;
      if (!this.panel.contains(document.activeElement))
        this.opener = this.state.run ? this.opener : run;
      this.state.run = run;
      this.remember(true);
      this.showRun(true);
    }

    showRun(takeFocus) {
      ml.runPanel.open(
        this.panel,
        this.byRun.get(this.state.run),
        (id) => this.byRun.get(id),
        this.all.filter((other) => other.config === this.byRun.get(this.state.run).config),
        () => this.closeRun(),
      );
      this.mark();
      if (takeFocus) {
        const heading = this.panel.querySelector("h3");
        heading.focus({ preventScroll: true });
        this.panel.scrollIntoView({ block: "start" });
      }
    }

    closeRun() {
      const run = this.opener || this.state.run;
      delete this.state.run;
      this.opener = null;
      this.panel.hidden = true;
      this.panel.replaceChildren();
      this.remember(false);
      this.mark();
      const link =
        this.table.querySelector(`tr[data-run="${run}"] a`) || this.table.querySelector("tbody a");
      if (link) this.walkTo(link);
    }

    walkTo(link) {
      this.table
        .querySelectorAll('tbody a[tabindex="0"]')
        .forEach((other) => (other.tabIndex = -1));
      link.tabIndex = 0;
      link.focus();
    }

    pressed(event) {
      if (event.key === "Escape" && !this.panel.hidden) {
        event.preventDefault();
        this.closeRun();
        return;
      }
      const link = event.target.closest("tbody th a");
      if (!link || !this.table.contains(link)) return;
      const links = [...this.table.querySelectorAll("tbody th a")];
      const here = links.indexOf(link);
      const to = {
        ArrowDown: here + 1,
        ArrowUp: here - 1,
        Home: 0,
        End: links.length - 1,
        PageDown: here + 10,
        PageUp: here - 10,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.walkTo(links[Math.min(Math.max(to, 0), links.length - 1)]);
    }
  }

  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("[data-explorer]").forEach((root) => new Explorer(root)),
  );
})();
