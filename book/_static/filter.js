/* Filters for any table with data-filter="NAME NAME ...": one menu a name, over its rows' data-NAME,
   and one search field over their text. Without scripts the whole table is shown. */
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
  return { label, test: (row) => !select.value || row.dataset[name] === select.value };
}

function search(apply) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  input.addEventListener("input", apply);
  label.append("containing ", input);
  const wanted = () => input.value.trim().toLowerCase();
  return { label, test: (row) => row.textContent.toLowerCase().includes(wanted()) };
}

function makeFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const status = document.createElement("output");
  const apply = () => {
    for (const row of rows) row.hidden = !filters.every((filter) => filter.test(row));
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = `${shown} of ${rows.length} shown`;
  };
  const names = table.dataset.filter.split(" ");
  const filters = [...names.map((name) => menu(rows, name, apply)), search(apply)];
  const bar = document.createElement("div");
  bar.className = "table-filter";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Filter the table");
  bar.append(...filters.map((filter) => filter.label), status);
  (table.closest(".pst-scrollable-table-container") || table).before(bar);
  apply();
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table[data-filter]")) makeFilter(table);
});
