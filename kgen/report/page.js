"use strict";
// Tables: a click on a heading sorts by its column, a second one the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const falling = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const key = (row) => row.cells[heading.cellIndex].dataset.v ?? row.cells[heading.cellIndex].textContent;
    const compare = (one, other) =>
      isNaN(one) || isNaN(other) ? String(one).localeCompare(other) : Number(one) - Number(other);
    const rows = [...body.rows].sort((one, other) => compare(key(one), key(other)));
    body.append(...(falling ? rows.reverse() : rows));
  });
}
// Points: the config of the trial under the pointer.
const studies = JSON.parse(document.getElementById("trials").textContent);
const hover = document.getElementById("hover");
const describe = (study, number) => {
  const [headline, shape, ...values] = study.trials[number];
  const fields = study.names[shape].map((name, i) => `${name}=${values[i]}`);
  return `trial ${number}: ${headline}\n${fields.join(", ")}`;
};
document.addEventListener("pointerover", (event) => {
  const number = event.target.dataset?.t;
  hover.hidden = number === undefined;
  if (hover.hidden) return;
  hover.textContent = describe(studies[event.target.closest("section").dataset.study], number);
  hover.style.left = `${Math.max(0, Math.min(event.clientX + 12, innerWidth - hover.offsetWidth - 8))}px`;
  hover.style.top = `${Math.max(0, Math.min(event.clientY + 12, innerHeight - hover.offsetHeight - 8))}px`;
});
