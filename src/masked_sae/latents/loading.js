// Shows latents from scripts beside the page: a page on disk may load those, and read no files. All text of the LM's
// is untrusted and reaches the page as text content alone.
"use strict";

const ROW = 30; // pixels, as page.css has it
const NONE = 0xffffffff;
const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array };
const folder = document.body.dataset.folder;
const byId = (id) => document.getElementById(id);

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
  if (Uint8Array.fromBase64) return new Type(Uint8Array.fromBase64(base64).buffer); // faster, in browsers that have it
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
