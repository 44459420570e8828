// A click on a column's header sorts its table by the column: figures by value, names as text.
"use strict";

// The number a cell begins with, such as 40.2 of "40.2 ± 0.1" and -1.3 of "-1.3 [-2.0, -0.6] *"
function figure(text) {
  const found = /^[+-]?[\d,]*\.?\d+/.exec(text);
  return found ? parseFloat(found[0].replaceAll(",", "")) : NaN;
}

function compare(a, b) {
  const [x, y] = [figure(a), figure(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a.localeCompare(b, "en", { numeric: true });
}

function isEmpty(text) {
  return text === "" || text === "-" || text === "baseline";
}

function sort(table, column, direction) {
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => {
    const [a, b] = [text(one), text(other)];
    // what is absent stays last, whichever way the others are sorted
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
    return direction * compare(a, b);
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending ? 1 : -1);
    });
  });
}
