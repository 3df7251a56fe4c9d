// What is shown of one latent, and how the page begins.
"use strict";

const complain = (error) => byId("one").replaceChildren(make("p", { className: "warning" }, error.message));
const go = (latent) => { location.hash = `latent=${latent}`; show(latent).catch(complain); };

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
  const heights = data.histogram.subarray(at * index.bars, (at + 1) * index.bars);
  const begin = Math.min(heights.findIndex((height) => height > 0), index.bars - 8);
  const top = 2 ** ((Math.floor(Math.log2(index.max[latent]) * 4) + 1) / 4); // a bar is a quarter of an octave
  const bottom = top / 2 ** ((index.bars - begin) / 4);
  const bars = Array.from(heights.subarray(begin), (height) => {
    const bar = make("i", {});
    bar.style.height = `${(height / 255) * 100}%`;
    return bar;
  });
  const drawn = make("div", { className: "bars", role: "img" }, ...bars);
  drawn.setAttribute("aria-label", `histogram of activations from ${number(bottom)} to ${number(top)}`);
  return make("div", {}, make("h3", {}, "Activations ", make("small", {}, "where it fires, on a logarithmic axis")), drawn,
    make("div", { className: "ends" }, make("span", {}, (begin > 0 ? "" : "≤ ") + number(bottom)), make("span", {}, number(top))));
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
const follow = () => { if (asked() < index.latents) show(asked()).catch(complain); };

async function begin() {
  [index, words] = await Promise.all([load("index"), load("text")]);
  if (index.stamp !== document.body.dataset.stamp) throw new Error(`${folder}/ belongs to another page: write both again`);
  document.body.classList.toggle("no-effects", !index.raised);
  drawHeadings();
  list();
  if (asked() < index.latents) follow();
  else if (order.length) await show(order[0]);
  window.addEventListener("hashchange", follow);
  performance.mark("ready");
  document.documentElement.dataset.ready = "yes";
}

begin().catch(complain);
