// The list of latents: only the rows that are on the screen are made. Its order, and what is searched.
"use strict";

let index, words; // of all latents; the text and its tokens
let order = new Uint32Array(0); // the latents that are listed, in their order
let sorted = { column: "frequency", down: true };
let current = -1; // the latent that is shown

const firesOn = (latent) => {
  const found = new Set();
  for (let i = latent * index.contexts; i < (latent + 1) * index.contexts; i++) {
    if (index.topFirst[i] !== NONE) found.add(words.text[index.topFirst[i] + index.topAt[i]]);
  }
  return [...found].slice(0, 4);
};
const raised = (latent) => {
  const each = index.effects;
  return [...index.raised.subarray(latent * each, latent * each + Math.min(each, 4))];
};
const firstOr = (places) => (places.length ? places[0] : Infinity); // tokens are in the order of their texts

const COLUMNS = [
  { name: "latent", title: "Latent", key: (i) => i, show: (i) => String(i) },
  { name: "frequency", title: "Fre­quency", key: (i) => index.count[i], show: (i) => percent(index.count[i] / index.tokens) },
  { name: "max", title: "Max", key: (i) => index.max[i], show: (i) => number(index.max[i]) },
  { name: "mean", title: "Mean", key: (i) => index.mean[i], show: (i) => number(index.mean[i]) },
  { name: "cosine", title: "Near­est", key: (i) => index.cosine[i], show: (i) => index.cosine[i].toFixed(2) },
  { name: "fires", title: "Fires on", key: (i) => firstOr(firesOn(i)), tokens: firesOn },
  { name: "promotes", title: "Promotes", key: (i) => firstOr(raised(i)), tokens: raised },
];
const columns = () => COLUMNS.filter((one) => one.name !== "promotes" || index.raised);

function drawHeadings() {
  byId("headings").replaceChildren(...columns().map((column) => {
    const chosen = column.name === sorted.column;
    const arrow = chosen ? (sorted.down ? " ▼" : " ▲") : "";
    const button = make("button", { type: "button", onclick: () => sortBy(column) }, column.title + arrow);
    button.setAttribute("aria-pressed", String(chosen));
    button.dataset.column = column.name;
    return button;
  }));
}

function sortBy(column) {
  const upFirst = column.name === "latent" || column.tokens !== undefined; // a first click gives A to Z, or the most
  sorted = { column: column.name, down: column.name === sorted.column ? !sorted.down : !upFirst };
  drawHeadings();
  list();
}

function list() {
  const chosen = matching(byId("query").value, byId("where").value);
  const column = COLUMNS.find((one) => one.name === sorted.column);
  const keys = Float64Array.from(chosen, column.key);
  const sign = sorted.down ? -1 : 1;
  const by = (a, b) => {
    if (keys[a] === keys[b]) return a - b;
    if (keys[a] === Infinity || keys[b] === Infinity) return keys[a] - keys[b]; // none: last, either way
    return sign * (keys[a] - keys[b]);
  };
  order = Uint32Array.from(Uint32Array.from(chosen, (_, i) => i).sort(by), (i) => chosen[i]);
  byId("shown").textContent = `${order.length.toLocaleString("en")} of ${index.latents.toLocaleString("en")}`;
  byId("space").style.height = `${order.length * ROW}px`;
  byId("rows").scrollTop = 0;
  drawRows();
}

function drawRows() {
  const rows = byId("rows");
  const first = Math.max(0, Math.floor(rows.scrollTop / ROW) - 5);
  const last = Math.min(order.length, Math.ceil((rows.scrollTop + rows.clientHeight) / ROW) + 5);
  const focused = document.activeElement?.dataset.latent;
  const tabbed = order.indexOf(current) >= 0 ? current : order[0];
  const drawn = [];
  for (let place = first; place < last; place++) drawn.push(row(order[place], place, tabbed));
  byId("space").replaceChildren(...drawn);
  if (focused !== undefined) drawn.find((one) => one.dataset.latent === focused)?.focus({ preventScroll: true });
}

function row(latent, place, tabbed) {
  const cells = columns().map((column) => column.tokens
    ? make("span", { className: "tokens" }, ...column.tokens(latent).map((one) => token(one)))
    : make("span", { className: "number" }, column.show(latent)));
  const element = make("a", { className: index.count[latent] ? "row" : "row dead", href: `#latent=${latent}` }, ...cells);
  element.dataset.latent = latent;
  element.style.top = `${place * ROW}px`;
  element.tabIndex = latent === tabbed ? 0 : -1;
  if (latent === current) element.setAttribute("aria-current", "true");
  return element;
}

const MOVES = { ArrowDown: () => 1, ArrowUp: () => -1, PageDown: () => 15, PageUp: () => -15, Home: () => -order.length, End: () => order.length };

byId("rows").addEventListener("keydown", (event) => {
  const latent = Number(document.activeElement?.dataset.latent ?? NaN);
  if (!(event.key in MOVES) || Number.isNaN(latent)) return;
  event.preventDefault();
  step(latent, MOVES[event.key]());
  byId("space").querySelector("[aria-current]")?.focus({ preventScroll: true });
});
byId("rows").addEventListener("scroll", drawRows, { passive: true });
window.addEventListener("resize", drawRows);

function step(from, by) {
  const place = Math.min(Math.max(order.indexOf(from) + by, 0), order.length - 1);
  if (order.length) go(order[place]);
}

// ---- searching ----

/** @returns {Uint32Array} */
function matching(query, where) {
  const all = Uint32Array.from({ length: index.latents }, (_, i) => i);
  const wanted = query.toLowerCase(); // with its spaces: tokens begin with one
  if (wanted.trim() === "") return all;
  const promoted = where !== "contexts" && index.raised ? tokensWith(wanted) : null;
  const begun = where !== "promoted" ? placesOf(wanted) : null;
  return all.filter((latent) => (where === "any" && String(latent) === wanted.trim())
    || (promoted !== null && isRaised(latent, promoted)) || (begun !== null && isInTop(latent, begun)));
}

const tokensWith = (wanted) => Uint8Array.from(words.tokens, (text) => (text.toLowerCase().includes(wanted) ? 1 : 0));

function isRaised(latent, chosen) {
  const each = index.effects;
  for (let i = latent * each; i < (latent + 1) * each; i++) if (chosen[index.raised[i]]) return true;
  return false;
}

let read; // the text as one, in lower case, and where each of its tokens begins

function readText() {
  const lower = words.tokens.map((text) => text.toLowerCase());
  const parts = Array.from(words.text, (place) => lower[place]);
  const begins = new Uint32Array(parts.length + 1);
  parts.forEach((part, i) => { begins[i + 1] = begins[i] + part.length; });
  read = { whole: parts.join(""), begins };
}

// How many times the wanted text begins before each token of the text.
function placesOf(wanted) {
  if (read === undefined) readText();
  const before = new Uint32Array(read.begins.length);
  let i = 0;
  for (let at = read.whole.indexOf(wanted); at >= 0; at = read.whole.indexOf(wanted, at + 1)) {
    while (read.begins[i + 1] <= at) i++;
    before[i + 1]++;
  }
  for (let j = 1; j < before.length; j++) before[j] += before[j - 1];
  return before;
}

function isInTop(latent, before) {
  for (let i = latent * index.contexts; i < (latent + 1) * index.contexts; i++) {
    const first = index.topFirst[i];
    if (first !== NONE && before[first + index.width] > before[first]) return true;
  }
  return false;
}

let typing;
byId("query").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(list, 150); });
byId("where").addEventListener("change", list);
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  list();
  if (order.length) go(order[0]);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select")) return;
  event.preventDefault();
  byId("query").focus();
});
