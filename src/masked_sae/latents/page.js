// Shows latents from scripts beside the page: a page on disk may load those, and read no files. All text of the LM's
// is untrusted and reaches the page as text content alone.
"use strict";

const ROW = 30; // pixels, as page.css has it
const NONE = 0xffffffff;
const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
const folder = document.body.dataset.folder;
const byId = (id) => document.getElementById(id);

// ---- data ----

/** @type {Map<string, (value: object) => void>} */
const awaited = new Map();
/** @type {Map<string, Promise<object>>} */
const loaded = new Map();

// What the data's scripts call.
function handOver(name, value) {
  for (const [key, [code, text]] of Object.entries(value.arrays)) value[key] = unpack(TYPES[code], text);
  awaited.get(name)?.(value);
}

function unpack(Type, base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Type(bytes.buffer);
}

/** @returns {Promise<object>} */
function load(name) {
  if (!loaded.has(name)) {
    loaded.set(name, new Promise((resolve, reject) => {
      awaited.set(name, resolve);
      const script = document.createElement("script");
      script.src = `${folder}/${name}.js`;
      script.onerror = () => reject(new Error(`${folder}/${name}.js is not there, or cannot be read`));
      document.head.append(script);
    }));
  }
  return loaded.get(name);
}

// ---- making elements ----

/** @returns {HTMLElement} */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Nothing invisible: controls, marks of direction and line breaks are written out.
const LINE_BREAKS = { "\n": "↵", "\t": "⇥", "\r": "␍" };
const visible = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (one) => LINE_BREAKS[one] ?? `\\u{${one.codePointAt(0).toString(16)}}`);

function token(place, className = "token") {
  const text = visible(words.tokens[place]);
  return make("bdi", { className }, className === "token" ? text.replace(/^ | $/g, "␣") : text);
}

function number(value) {
  if (value === 0) return "0";
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function percent(share) {
  if (share === 0) return "dead";
  return share < 0.0001 ? `${(share * 100).toExponential(0)} %` : `${Number((share * 100).toPrecision(2))} %`;
}

// ---- the list ----

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
  const wanted = query.trim().toLowerCase();
  if (wanted === "") return all;
  const promoted = where !== "contexts" && index.raised ? tokensWith(wanted) : null;
  const begun = where !== "promoted" ? placesOf(wanted) : null;
  return all.filter((latent) => (where === "any" && String(latent) === wanted)
    || (promoted !== null && isRaised(latent, promoted)) || (begun !== null && isInTop(latent, begun)));
}

const tokensWith = (wanted) => Uint8Array.from(words.tokens, (text) => (text.toLowerCase().includes(wanted) ? 1 : 0));

function isRaised(latent, chosen) {
  const each = index.effects;
  for (let i = latent * each; i < (latent + 1) * each; i++) if (chosen[index.raised[i]]) return true;
  return false;
}

// How many times the wanted text begins before each token of the text.
function placesOf(wanted) {
  const lower = words.tokens.map((text) => text.toLowerCase());
  const begins = new Uint32Array(words.text.length + 1);
  const parts = new Array(words.text.length);
  let length = 0;
  words.text.forEach((place, i) => { parts[i] = lower[place]; begins[i] = length; length += parts[i].length; });
  begins[words.text.length] = length;
  const whole = parts.join("");
  const before = new Uint32Array(words.text.length + 1);
  let i = 0;
  for (let at = whole.indexOf(wanted); at >= 0; at = whole.indexOf(wanted, at + 1)) {
    while (begins[i + 1] <= at) i++;
    before[i + 1]++;
  }
  for (let j = 0; j < words.text.length; j++) before[j + 1] += before[j];
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

// ---- one latent ----

const go = (latent) => { location.hash = `latent=${latent}`; show(latent); };

async function show(latent) {
  if (latent === current) return;
  current = latent;
  reveal(latent);
  const file = Math.floor(latent / index.inAFile);
  const data = await load(`latents-${file}`);
  if (latent === current) byId("one").replaceChildren(...describe(latent, data, latent - file * index.inAFile));
}

function reveal(latent) {
  const rows = byId("rows");
  const place = order.indexOf(latent);
  const top = place * ROW;
  if (place >= 0 && (top < rows.scrollTop || top + ROW > rows.scrollTop + rows.clientHeight)) {
    rows.scrollTop = top - (top < rows.scrollTop ? 0 : rows.clientHeight - ROW);
  }
  drawRows();
}

function describe(latent, data, at) {
  const fired = index.count[latent];
  const steps = make("span", { className: "steps" },
    make("button", { type: "button", onclick: () => step(latent, -1) }, "↑ previous"),
    make("button", { type: "button", onclick: () => step(latent, 1) }, "↓ next"));
  const facts = fired
    ? `Fires on ${percent(fired / index.tokens)} of tokens (${fired.toLocaleString("en")}), at most with ${number(index.max[latent])}, in the mean with ${number(index.mean[latent])} where it fires.`
    : `Dead: it fired on none of the ${index.tokens.toLocaleString("en")} tokens that were read.`;
  return [
    steps, make("h2", {}, "Latent ", make("a", { href: `#latent=${latent}`, title: "Link to this latent" }, String(latent))),
    make("p", { className: fired ? "" : "dead" }, facts),
    ...(index.raised ? [effects(latent, data, at)] : []),
    ...(fired ? [histogram(latent, data, at)] : []),
    make("div", { className: "pair" },
      neighbours("Nearest by decoder", "cosine", data.decoderLatent, data.decoderNearness, at),
      neighbours("Nearest by firing", "Jaccard", data.firingLatent, data.firingNearness, at)),
    ...(fired ? [...contexts("Strongest", "one of a sequence", latent, at, { first: index.topFirst, firstOf: latent, at: index.topAt, value: data.topValue, window: data.topWindow }),
      ...contexts("Sampled", "evenly from all its activations; % are weaker", latent, at,
        { first: data.sampleFirst, firstOf: at, at: data.sampleAt, value: data.sampleValue, window: data.sampleWindow, quantile: data.quantile })] : []),
  ];
}

function effects(latent, data, at) {
  const each = index.effects;
  const half = (title, className, places, placesOf, values, sign) => make("div", {}, make("h3", {}, title),
    make("ul", { className: `chips ${className}` }, ...Array.from({ length: each }, (_, i) => make("li", {},
      token(places[placesOf * each + i]), make("small", {}, `${sign}${Math.abs(values[at * each + i]).toFixed(1)}`)))));
  return make("div", { className: "pair" },
    half("Promotes", "up", index.raised, latent, data.raise, "+"), half("Suppresses", "down", data.lowered, at, data.lower, "−"));
}

function neighbours(title, measure, latents, nearness, at) {
  const each = index.neighbours;
  const items = [];
  for (let i = at * each; i < (at + 1) * each; i++) {
    if (latents[i] < 0) continue;
    const near = latents[i];
    const what = firesOn(near).slice(0, 1).map((one) => token(one));
    items.push(make("li", {}, make("a", { href: `#latent=${near}` }, String(near)), " ", ...what, make("small", {}, nearness[i].toFixed(2))));
  }
  return make("div", {}, make("h3", {}, title, " ", make("small", {}, measure)),
    items.length ? make("ul", { className: "chips" }, ...items) : make("p", { className: "dead" }, "none"));
}

function histogram(latent, data, at) {
  const top = 2 ** ((Math.floor(Math.log2(index.max[latent]) * 4 + 1e-6) + 1) / 4);
  const bars = Array.from(data.histogram.subarray(at * index.bars, (at + 1) * index.bars), (height) => {
    const bar = make("i", {});
    bar.style.height = `${(height / 255) * 100}%`;
    return bar;
  });
  return make("div", {}, make("h3", {}, "Activations ", make("small", {}, "where it fires, on a logarithmic axis")),
    make("div", { className: "bars", role: "img", ariaLabel: "histogram of activations" }, ...bars),
    make("div", { className: "ends" }, make("span", {}, `≤ ${number(top / 2 ** (index.bars / 4))}`), make("span", {}, number(top))));
}

function contexts(title, how, latent, at, found) {
  const items = [];
  for (let i = 0; i < index.contexts; i++) {
    const first = found.first[found.firstOf * index.contexts + i];
    if (first === NONE) continue;
    const here = at * index.contexts + i;
    const label = number(found.value[here]) + (found.quantile ? ` · ${found.quantile[here]} %` : "");
    items.push(make("li", {}, make("span", { className: "value" }, label), context(first, found.at[found.firstOf * index.contexts + i], found.window, here, latent)));
  }
  return [make("h3", {}, `${title} `, make("small", {}, how)), make("ol", { className: "contexts" }, ...items)];
}

function context(first, peak, window, here, latent) {
  const line = make("div", { className: "context" });
  for (let i = 0; i < index.width; i++) {
    const element = token(words.text[first + i], i === peak ? "here" : "");
    const share = window[here * index.width + i] / 255;
    if (share > 0) {
      element.style.backgroundColor = `rgb(var(--shade) / ${0.12 + 0.75 * share})`;
      element.title = number(share * index.max[latent]);
    }
    line.append(element);
  }
  return line;
}

// ---- beginning ----

const asked = () => Number(/^#latent=(\d+)$/.exec(location.hash)?.[1] ?? NaN);
const follow = () => { if (asked() < index.latents) show(asked()); };

async function begin() {
  [index, words] = await Promise.all([load("index"), load("text")]);
  if (index.stamp !== document.body.dataset.stamp) throw new Error(`${folder}/ belongs to another page: write both again`);
  document.body.classList.toggle("no-effects", !index.raised);
  drawHeadings();
  list();
  if (asked() < index.latents) follow();
  else if (order.length) await show(order[0]);
  window.addEventListener("hashchange", follow);
  document.documentElement.dataset.ready = "yes";
}

begin().catch((error) => byId("one").replaceChildren(make("p", { className: "warning" }, error.message)));
