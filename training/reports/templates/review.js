"use strict";
// What a person decides of each row: "accept", "skip", the name of the right expression, or "none". Kept in the browser
// under a name made of the rows themselves, so that another page does not take it up.
const table = document.querySelector(".label-errors");
const rows = [...table.querySelectorAll("tr[data-image-id]")];
const panel = document.querySelector(".review");
const place = "label_errors " + hash(table.dataset.split + rows.map((r) => r.dataset.imageId + r.dataset.humanLabel));
let state = { decisions: {}, history: [], current: 0 };

function hash(text) {
  let value = 5381;
  for (const character of text) value = (value * 33 + character.codePointAt(0)) % 2 ** 45;
  return rows.length + "-" + value.toString(36);
}

function decide(decision) {
  const { current, decisions, history } = state;
  history.push([current, decisions[current] ?? null]);
  decisions[current] = decision === rows[current].dataset.humanLabel ? "accept" : decision;
  go(current + 1);
}

function undo() {
  if (!state.history.length) return;
  const [row, before] = state.history.pop();
  if (before === null) delete state.decisions[row];
  else state.decisions[row] = before;
  go(row);
}

function go(row) {
  state.current = Math.min(Math.max(row, 0), rows.length - 1);
  show();
  rows[state.current].scrollIntoView({ block: "center" });
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    panel.querySelector(".unkept").hidden = false; // a browser that keeps nothing
  }
}

function show() {
  rows.forEach((row, index) => {
    row.ariaCurrent = index === state.current ? "true" : null;
    row.querySelector(".decision").textContent = state.decisions[index] ?? "";
  });
  const reviewed = Object.keys(state.decisions).length;
  panel.querySelector("output").textContent = `${reviewed} of ${rows.length} reviewed`;
}

// As csv_cell of releases/files.py: a spreadsheet shall take nothing for a formula.
function cell(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}

function download() {
  const lines = [["split", "image_id", "human_label", "corrected_label", "decision"]];
  rows.forEach((row, index) => {
    const decision = state.decisions[index];
    if (decision === undefined) return;
    const { imageId, humanLabel } = row.dataset;
    const kept = { accept: [humanLabel, "accept"], skip: ["", "skip"] }[decision] ?? [decision, "correct"];
    lines.push([table.dataset.split, imageId, humanLabel, ...kept]);
  });
  const text = lines.map((line) => line.map(cell).join(",") + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
}

const moves = { undo, download, next: () => go(state.current + 1), previous: () => go(state.current - 1) };
const keys = { u: "undo", ArrowDown: "next", ArrowRight: "next", j: "next", ArrowUp: "previous", ArrowLeft: "previous",
  k: "previous", a: "accept", Enter: "accept", s: "skip", " ": "skip", n: "none" };
for (const button of panel.querySelectorAll("button[data-key]")) keys[button.dataset.key] = button.value;

function act(value) {
  if (Object.hasOwn(moves, value)) moves[value]();
  else if (rows.length) decide(value);
}

document.addEventListener("keydown", (event) => {
  const pressed = event.target.closest("button") && ["Enter", " "].includes(event.key); // the button's own
  if (pressed || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  act(keys[event.key]);
});
panel.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (event.detail) button.blur(); // clicked, not pressed: the next space is no press of this button
  act(button.value);
});
rows.forEach((row, index) => row.addEventListener("click", () => go(index)));

try {
  state = JSON.parse(localStorage.getItem(place)) ?? state;
} catch {
  // nothing is kept
}
if (rows.length) show();
if (state.current) go(state.current);
