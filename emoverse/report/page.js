"use strict";
// Show only the sample clips of the chosen test set and verdict.
const chosen = { test: "all", verdict: "all" };
function apply() {
  let shown = 0;
  for (const card of document.querySelectorAll(".sample")) {
    const fits = Object.entries(chosen).every(([key, value]) => value === "all" || card.dataset[key] === value);
    card.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  document.getElementById("shown").textContent = shown + " shown";
}
for (const button of document.querySelectorAll("button[data-filter]")) {
  button.addEventListener("click", () => {
    chosen[button.dataset.filter] = button.dataset.value;
    for (const other of document.querySelectorAll(`button[data-filter="${button.dataset.filter}"]`)) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    apply();
  });
}
for (const group of document.querySelectorAll(".filters")) group.hidden = false;
