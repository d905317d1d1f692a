/* Show a table that is wider than its place row by row, each cell after the head of its column.
 *
 * Which one that is depends on the window and the letters, so it is measured.
 */
(() => {
  // As blocks the parts of a table would no longer be one to a screen reader.
  const ROLES = { TABLE: "table", TBODY: "rowgroup", TR: "row", TD: "cell" };

  function prepare(table) {
    const heads = [...table.tHead.rows].at(-1).cells;
    for (const row of table.tBodies[0].rows)
      [...row.cells].forEach((cell, column) => (cell.dataset.head = heads[column]?.textContent.trim() ?? ""));
    for (const part of [table, ...table.querySelectorAll("tbody, tr, td")]) part.setAttribute("role", ROLES[part.tagName]);
  }

  const tables = [...document.querySelectorAll("article .table-wrapper > table:has(thead th:nth-child(3))")];
  tables.forEach(prepare);

  function stack() {
    for (const table of tables) {
      table.classList.remove("stacked");
      const place = table.parentElement;
      table.classList.toggle("stacked", place.scrollWidth > place.clientWidth);
    }
  }
  stack();
  addEventListener("load", stack); // the letters have come
  addEventListener("resize", stack);
})();
