/* Filters for any table with data-filter="NAME NAME ...": one menu a name, over its rows' data-NAME,
   and one search field over their text. What is chosen, and the row that is looked at, stand in the
   address: #verdict=agrees&containing=sparse&row=claim-x. Without scripts the whole table is shown. */
"use strict";

function menu(rows, name, apply) {
  const label = document.createElement("label");
  const select = document.createElement("select");
  const values = [...new Set(rows.map((row) => row.dataset[name]))].sort();
  select.append(new Option("all", ""));
  for (const value of values) {
    const count = rows.filter((row) => row.dataset[name] === value).length;
    select.append(new Option(`${value} (${count})`, value));
  }
  select.addEventListener("change", apply);
  label.append(`${name} `, select);
  return {
    name,
    label,
    field: select,
    test: (row) => [row.dataset[name], ""].includes(select.value),
  };
}

function search(apply) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  input.addEventListener("input", apply);
  label.append("containing ", input);
  const wanted = () => input.value.trim().toLowerCase();
  const test = (row) => row.textContent.toLowerCase().includes(wanted());
  return { name: "containing", label, field: input, test };
}

/* A link to each row that has a name, in its first cell */
function linkRows(rows) {
  for (const row of rows.filter((r) => r.id)) {
    const link = document.createElement("a");
    link.className = "headerlink";
    link.textContent = "#";
    link.ariaLabel = `Link to ${row.id}`;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      row.dispatchEvent(new CustomEvent("chosen", { bubbles: true }));
    });
    row.cells[0].append(" ", link);
  }
}

function makeFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const status = document.createElement("output");
  let chosen = null;

  const apply = () => {
    for (const row of rows) {
      row.hidden = !filters.every((filter) => filter.test(row));
      row.ariaCurrent = row === chosen ? "true" : null;
      const link = row.querySelector("a.headerlink");
      if (link) link.href = state(row);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = `${shown} of ${rows.length} shown`;
  };

  /* What is chosen as an address; a fragment of another kind, a heading's, is left alone */
  const state = (row) => {
    const pairs = filters.filter((f) => f.field.value).map((f) => [f.name, f.field.value]);
    if (row) pairs.push(["row", row.id]);
    return `#${new URLSearchParams(pairs)}`;
  };
  const write = () => {
    apply();
    const hash = state(chosen);
    history.replaceState(null, "", hash === "#" ? location.pathname + location.search : hash);
  };
  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const isOurs = [...filters.map((f) => f.name), "row"].some((name) => given.has(name));
    if (location.hash && !isOurs) return;
    for (const { name, field } of filters) {
      field.value = given.get(name) ?? "";
      if (field.selectedIndex === -1) field.value = ""; // the table has no such value
    }
    chosen = rows.find((row) => row.id && row.id === given.get("row")) ?? null;
    write();
    if (chosen && !chosen.hidden) chosen.scrollIntoView({ block: "center" });
  };

  const names = table.dataset.filter.split(" ");
  const filters = [...names.map((name) => menu(rows, name, write)), search(write)];
  const bar = document.createElement("div");
  bar.className = "table-filter";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Filter the table");
  bar.append(...filters.map((filter) => filter.label), status);
  (table.closest(".pst-scrollable-table-container") || table).before(bar);
  linkRows(rows);
  table.addEventListener("chosen", (event) => {
    chosen = event.target === chosen ? null : event.target;
    write();
  });
  addEventListener("hashchange", read);
  apply();
  read();
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table[data-filter]")) makeFilter(table);
});
