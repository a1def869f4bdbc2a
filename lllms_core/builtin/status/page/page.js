// The page at `/`: what a server of lllms does, live; buttons; a box to try a model.
// SPDX-License-Identifier: MIT
//
// The server sends sections of its state as events; `render` shows them. Every text is set as text: nothing that a
// file, a client or a model has written becomes HTML. The API key, if the server wants one, is kept in sessionStorage
// and sent in a header, never in a cookie, so no page of somebody else can use it.

const BASE = new URL("../../../", import.meta.url); // this file is at api/v1/status/page.js
const KEY = "lllms-key";
const FIRST_PAUSE = 500; // milliseconds before the second try to connect, doubled for each further one
const LONGEST_PAUSE = 10_000;
const HIDDEN = 15_000; // milliseconds after which a page that nobody sees closes its connection
const MOST_NOTES = 3;

const $ = (id) => document.getElementById(id);
const page = $("page");

let Client, EventReader; // of client.js
let key = stored();
let state = {}; // the sections, by name
let skew = 0; // the server's clock less ours, in milliseconds

// -- elements ---------------------------------------------------------------------------------------------------------

/** Make an element; strings among the children become texts. */
function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Set a text, if it is another; an element without one is hidden. */
function put(node, text) {
  const told = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== told) node.textContent = told;
  if (node.hidden !== (told === "")) node.hidden = told === "";
}

function attribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** A list whose elements live as long as their items, so that focus and open details survive a change. */
class Rows {
  #list; #make; #rows = new Map(); #empty;

  constructor(list, make, empty = "") {
    this.#list = list;
    this.#make = make;
    this.#empty = empty === "" ? null : h("li", { class: "empty" }, empty);
  }

  show(items, name) {
    const there = new Set(items.map(name));
    for (const [id, row] of this.#rows) {
      if (there.has(id)) continue;
      const focused = row.root.contains(document.activeElement);
      row.root.remove();
      this.#rows.delete(id);
      if (focused) this.#list.closest("section")?.focus({ preventScroll: true });
    }
    let at = this.#list.firstElementChild;
    for (const item of items) {
      const id = name(item);
      if (!this.#rows.has(id)) this.#rows.set(id, this.#make(item));
      const row = this.#rows.get(id);
      if (row.root === at) at = at.nextElementSibling;
      else this.#list.insertBefore(row.root, at);
      row.update(item);
    }
    if (this.#empty === null) return;
    if (items.length === 0) this.#list.append(this.#empty);
    else this.#empty.remove();
  }
}

/** Show a problem until it is dismissed; only the last few are kept. */
function tell(text) {
  const close = h("button", { type: "button", class: "quiet", onclick: () => note.remove() }, "Dismiss");
  const note = h("p", {}, h("span", {}, text), close);
  $("errors").append(note);
  while ($("errors").childElementCount > MOST_NOTES) $("errors").firstElementChild.remove();
}

/** Ask whether something that runs is to end. */
function sure(title, text, action) {
  const dialog = $("sure");
  put($("sure-title"), title);
  put($("sure-text"), text);
  put($("sure-yes"), action);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** A button that does one thing at a time, and tells if that fails. */
function button(text, act, kind = null) {
  const made = h("button", { type: "button", class: kind, onclick: async () => {
    if (made.getAttribute("aria-disabled") === "true") return;
    made.setAttribute("aria-disabled", "true");
    try {
      await act();
    } catch (error) {
      tell(error.message);
    } finally {
      made.removeAttribute("aria-disabled");
    }
  } }, text);
  return made;
}

// -- words ------------------------------------------------------------------------------------------------------------

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];
const count = (number) => Number(number).toLocaleString("en");
const words = (...parts) => parts.filter((part) => part !== null && part !== undefined && part !== "").join(" · ");
const many = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;
const share = (part) => `${Math.floor(100 * part)} %`;
const now = () => (Date.now() + skew) / 1000;
const since = (moment) => span(Math.max(0, now() - moment));

function size(bytes) {
  let unit = 0;
  let left = bytes;
  while (left >= 1000 && unit < UNITS.length - 1) [left, unit] = [left / 1000, unit + 1];
  return `${unit === 0 ? left : left.toFixed(left < 10 ? 1 : 0)} ${UNITS[unit]}`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

function exact(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : span(seconds);
}

const rate = (pace) => `${pace < 100 ? pace.toFixed(1) : count(Math.round(pace))} tokens/s`;

function parameters(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(1)}B parameters`;
  return number >= 1e6 ? `${(number / 1e6).toFixed(1)}M parameters` : `${count(number)} parameters`;
}

// -- models -----------------------------------------------------------------------------------------------------------

const MODEL_STATES = {
  loaded: ["loaded", "good"], loading: ["loading", "wait"], unloaded: ["not loaded", ""],
  fetching: ["downloading", "wait"], absent: ["not downloaded", ""], broken: ["cannot be loaded", "bad"],
  failed: ["cannot be loaded", "bad"],
};
const TASKS = { chat: "chat", text: "text", embed: "embeddings", rerank: "reranking" };

function modelRow(model) {
  const name = model.name;
  const badge = h("span", { class: "badge" });
  const facts = h("p", { class: "facts" });
  const chips = h("ul", { class: "chips", "aria-label": `What ${name} can do` });
  const trouble = h("p", { class: "fault" });
  const described = h("p", { class: "facts" });
  const load = button("Load", () => loadModel(name));
  const unload = button("Unload", () => unloadModel(name), "quiet");
  unload.setAttribute("aria-label", `Unload: ${name}`);
  const head = h("div", { class: "head" }, h("h3", { class: "name" }, name), badge,
    h("span", { class: "push" }, load, unload));
  let told = "";
  return {
    root: h("li", { class: "card item" }, head, facts, described, trouble, chips),
    update(one) {
      const [text, tone] = MODEL_STATES[one.state] ?? [one.state, ""];
      put(badge, text);
      attribute(badge, "data-tone", tone);
      const able = one.abilities;
      const details = able?.details ?? {};
      put(facts, words(
        one.engine, details.architecture, details.parameters && parameters(details.parameters), details.quantisation,
        details.size && size(details.size), able?.context_length && `${count(able.context_length)} tokens of context`,
        one.aliases.length > 0 ? `also ${one.aliases.join(", ")}` : "",
      ));
      put(described, one.description);
      put(trouble, one.troubles.map((each) => each.text + nextTry(each.retry_at)).join("\n"));
      const tasks = able?.tasks ?? []; // unknown until its files are here
      const chats = tasks.includes("chat");
      const can = [
        ...tasks.map((task) => TASKS[task]), chats && able.thinks && "thoughts", chats && able.tools && "tools",
        chats && able.images && "images",
      ].filter(Boolean);
      if (can.join() !== told) chips.replaceChildren(...can.map((each) => h("li", {}, each)));
      told = can.join();
      chips.hidden = can.length === 0;
      const failed = one.state === "failed" || one.state === "broken";
      put(load, one.state === "absent" ? "Download and load" : failed ? "Try again" : "Load");
      attribute(load, "aria-label", `${load.textContent}: ${name}`);
      load.hidden = one.engine === "" || !(failed || one.state === "unloaded" || one.state === "absent");
      unload.hidden = one.state !== "loaded";
    },
  };
}

function nextTry(at) {
  return at === null || at <= now() ? "" : `; next try in ${span(at - now())}`;
}

async function loadModel(name) {
  for await (const step of client().load(name)) void step; // the events of the server show how far it is
}

async function unloadModel(name) {
  const { busy, kept } = await client().unload(name);
  if (busy.length > 0) tell(`${name} is at work; it is unloaded as soon as it is idle.`);
  if (kept.length > 0) tell(`${name} stays loaded, as its configuration says (min_instances).`);
}

// -- places -----------------------------------------------------------------------------------------------------------

const PLACE_STATES = {
  used: ["in use", "good"], avoided: ["no new instances", "wait"], refused: ["not used", "bad"], lost: ["lost", "bad"],
};

function placeRow(first) {
  const badge = h("span", { class: "badge" });
  const ago = h("span", { class: "pace push soft" });
  const filled = h("span");
  const bar = h("div", { class: "bar", role: "img" }, filled);
  const facts = h("p", { class: "facts" });
  const trouble = h("p", { class: "fault" });
  const instances = h("ul", { class: "chips", "aria-label": `Instances at ${first.name}` });
  let told = "";
  return {
    root: h("li", { class: "card item" },
      h("div", { class: "head" }, h("h3", { class: "name" }, first.name), badge, ago),
      bar, facts, trouble, instances),
    update(one) {
      const [text, tone] = PLACE_STATES[one.state] ?? [one.state, ""];
      const there = one.state === "used" || one.state === "avoided";
      put(badge, text);
      attribute(badge, "data-tone", tone);
      put(ago, one.state === "lost" ? `${since(one.since)} ago` : `for ${since(one.since)}`);
      bar.hidden = !there || one.memory === null;
      if (!bar.hidden) {
        filled.style.width = `${Math.min(100, (100 * one.used) / one.memory)}%`;
        attribute(filled, "data-tone", one.used > one.memory ? "bad" : null);
        attribute(bar, "aria-label", `${size(one.used)} of ${size(one.memory)} of memory used`);
      }
      put(facts, !there ? "" : words(
        many(one.instances, "instance"), many(one.cores, "core"),
        one.memory === null ? `${size(one.used)} of memory used` : `${size(one.used)} of ${size(one.memory)} of memory used`,
        ...one.devices.map((gpu) => `${size(gpu.used)} of ${size(gpu.limit)} on GPU ${gpu.name}`),
        one.disk === null ? "" : `${size(one.disk)} of disk free`,
      ));
      put(trouble, one.problem);
      const names = there ? state.instances.filter((each) => each.place === one.name).map((each) => each.id) : [];
      if (names.join() !== told) instances.replaceChildren(...names.map((each) => h("li", {}, each)));
      told = names.join();
      instances.hidden = names.length === 0;
    },
  };
}

// -- instances --------------------------------------------------------------------------------------------------------

function instanceRow(first) {
  const badge = h("span", { class: "badge" });
  const place = h("span", { class: "badge" });
  const pace = h("span", { class: "pace push" });
  const told = h("span");
  const measured = h("span", { class: "measured" });
  const bar = h("div", { class: "bar", role: "img" }, told, measured);
  const loaded = h("progress", { max: "1", "aria-label": `Load of ${first.id}` });
  const memory = h("p", { class: "facts" });
  const facts = h("p", { class: "facts" });
  const note = h("p", { class: "note" });
  return {
    root: h("li", { class: "card item" },
      h("div", { class: "head" }, h("h3", { class: "name" }, first.id), badge, place, pace),
      loaded, bar, memory, facts, note),
    update(one) {
      const loading = one.state === "loading";
      put(badge, loading ? `loading ${share(one.progress)}` : one.running > 0 ? "busy" : one.state);
      attribute(badge, "data-tone", loading || one.state === "closing" ? "wait" : "good");
      const devices = Object.entries(one.devices);
      put(place, loading ? "" : one.device?.split(" ")[0] ?? (devices.length > 0 ? "GPU" : "CPU"));
      put(pace, one.pace === null ? "" : rate(one.pace));
      loaded.hidden = !loading;
      if (loading) loaded.value = one.progress;
      const limit = (one.place === null ? state.memory?.limit : placed(one.place)?.memory) ?? null;
      bar.hidden = limit === null || !(one.memory || one.measured);
      if (!bar.hidden) {
        told.style.width = `${Math.min(100, (100 * one.memory) / limit)}%`;
        attribute(told, "data-tone", one.grown ? "bad" : null);
        measured.hidden = one.measured === null;
        measured.style.width = `${Math.min(100, (100 * (one.measured ?? 0)) / limit)}%`;
      }
      const sizes = words(
        one.memory ? `${size(one.memory)} of memory told` : "",
        one.measured === null ? "" : `${size(one.measured)} measured`,
        ...devices.map(([name, bytes]) => `${size(bytes)} on ${name}`),
      );
      put(memory, sizes);
      const owner = one.place === null ? "for lllms" : `at ${one.place}`;
      attribute(bar, "aria-label", limit === null ? null : `${sizes}, of ${size(limit)} ${owner}`);
      put(facts, words(
        one.slots === null ? "" : `${one.running} of ${many(one.slots, "slot")} in use`,
        one.context_length === null ? "" : `${count(one.context_length)} tokens per request`,
        one.device, many(one.threads, "core"),
        one.place !== null ? `at ${one.place}` : one.pid === null ? "in a thread" : `process ${one.pid}`,
        loading ? `for ${since(one.loading_since)}${one.load_timeout ? ` of at most ${span(one.load_timeout)}` : ""}` : "",
        one.idle_since === null ? "" : `idle for ${since(one.idle_since)}${
          one.ttl === null ? "" : `, unloaded after ${span(one.ttl)}`}`,
      ));
      put(note, words(
        one.silent === null ? "" : `silent for ${span(one.silent)}`,
        one.grown ? "takes more memory than it was told" : "",
        one.replaced ? "its file was replaced since it was loaded" : "",
      ));
    },
  };
}

// -- requests ---------------------------------------------------------------------------------------------------------

const OUTCOMES = { stop: "done", length: "cut at its limit", tool_calls: "called tools", timeout: "out of time" };
const PARTS = { queued: "queued", load: "load", prompt: "prompt", answer: "answer" };

function requestRow(first) {
  const badge = h("span", { class: "badge" });
  const pace = h("span", { class: "pace" });
  const facts = h("p", { class: "facts" });
  const wait = h("p", { class: "facts" });
  const done = h("progress", { max: "1", "aria-label": `Progress of the request for ${first.model}` });
  const cancel = button("Cancel", () => cancelRequest(first), "quiet");
  cancel.setAttribute("aria-label", `Cancel the request for ${first.model}`);
  const about = timeline(first.id, "Timeline");
  return {
    root: h("li", { class: "card item" },
      h("div", { class: "head" }, h("h3", { class: "name" }, first.model), badge,
        h("span", { class: "push" }, pace, cancel)),
      done, facts, wait, about.root),
    update(one) {
      put(badge, one.state);
      attribute(badge, "data-tone", one.state === "answering" ? "good" : "wait");
      put(pace, one.pace === null ? "" : rate(one.pace));
      done.hidden = one.progress === null;
      if (one.progress !== null) done.value = one.progress;
      put(facts, words(
        one.task, `for ${since(one.since)}`, one.tokens > 0 ? many(one.tokens, "token") : "",
        one.instance === null ? "" : `on ${one.instance}${one.place === null ? "" : ` at ${one.place}`}`,
      ));
      put(wait, one.text === null ? "" : `Waits: ${one.text}`);
      about.renew();
    },
  };
}

async function cancelRequest(one) {
  const running = state.requests.find((each) => each.id === one.id)?.instance != null;
  const text = "Its client is told that it was cancelled. What was written so far is lost, unless the client keeps it.";
  if (running && !(await sure(`Cancel the request for ${one.model}?`, text, "Cancel the request"))) return;
  await ask("DELETE", `api/v1/requests/${encodeURIComponent(one.id)}`, [404]); // it may have ended meanwhile
}

function endedRow(first) {
  const fine = first.status === null || first.status < 400;
  const left = first.status === 499;
  const times = first.timings;
  const about = timeline(first.id, null);
  const ago = h("span", { class: "pace push soft" });
  const facts = words(
    `${exact(first.seconds)} in all`, first.tokens > 0 ? many(first.tokens, "token") : "",
    first.tokens_per_second === null ? "" : rate(first.tokens_per_second),
    first.prompt_tokens > 0 ? `${count(first.cached_tokens)} of ${count(first.prompt_tokens)} prompt tokens cached` : "",
    first.key === null ? "" : `key ${first.key}`, first.task === "chat" ? "" : first.task,
    first.place === null ? "" : `at ${first.place}`,
  );
  const head = h("div", { class: "head" }, h("h3", { class: "name" }, first.model),
    h("span", { class: "badge", "data-tone": fine ? "good" : left ? "" : "bad" }, OUTCOMES[first.outcome] ?? first.outcome), ago);
  about.root.prepend(h("summary", {}, head, h("p", { class: "facts" }, facts), stack(times)));
  return {
    root: h("li", { class: "card item" }, about.root),
    update(one) {
      put(ago, `${since(one.submitted + one.seconds)} ago`);
    },
  };
}

/** A bar of the parts of a request's time. */
function stack(times) {
  const all = Object.keys(PARTS).reduce((sum, part) => sum + times[part], 0);
  const bar = h("div", { class: "bar", role: "img", "aria-label": `Time: ${spent(times).join(", ")}` });
  for (const part of Object.keys(PARTS)) {
    if (times[part] <= 0) continue;
    const piece = h("span", { "data-part": part });
    piece.style.width = `${(100 * times[part]) / all}%`;
    bar.append(piece);
  }
  return bar;
}

const spent = (times) => Object.entries(PARTS).map(([part, word]) => `${word} ${exact(times[part])}`);

/** Details that fetch the timeline of a request when they are opened; with a `title`, they have a summary of their own. */
function timeline(id, title) {
  const told = h("div", { class: "told" });
  const root = h("details", title === null ? {} : { class: "more-about" }, told);
  if (title !== null) root.prepend(h("summary", {}, title));
  let asked = 0;
  let moments = "";

  async function fetchIt() {
    asked = Date.now();
    try {
      const one = await (await ask("GET", `api/v1/requests/${encodeURIComponent(id)}`)).json();
      const shown = JSON.stringify([one.timeline, one.outcome]);
      if (shown !== moments) told.replaceChildren(...explained(one));
      moments = shown;
    } catch (error) {
      told.replaceChildren(h("p", { class: "soft" }, error.status === 404 ? "It is no longer remembered." : error.message));
    }
  }
  root.addEventListener("toggle", () => root.open && fetchIt());
  return { root, renew: () => root.open && Date.now() - asked > 1000 && fetchIt() };
}

function explained(one) {
  const legend = h("ul", { class: "legend" }, ...spent(one.timings).map(
    (text, at) => h("li", { "data-part": Object.keys(PARTS)[at] }, text),
  ));
  const moments = h("ol", { class: "moments" }, ...one.timeline.map((moment) => h("li", {},
    h("span", { class: "at" }, exact(moment.seconds)),
    h("span", { class: "what" }, moment.detail === "" ? moment.what : `${moment.what}: ${moment.detail}`),
  )));
  const cached = one.cache === null ? [] : [h("p", { class: "cached" }, `Cache: ${one.cache.explanation}.`)];
  return [...(one.outcome === null ? [] : [legend]), moments, ...cached, h("p", { class: "id" }, "id ", h("code", {}, one.id))];
}

// -- downloads --------------------------------------------------------------------------------------------------------

function downloadRow(first) {
  const title = first.models.join(", ") || first.source;
  const badge = h("span", { class: "badge" });
  const done = h("progress", { max: "1", "aria-label": `Download of ${title}` });
  const source = h("p", { class: "facts" }, first.source);
  const facts = h("p", { class: "facts" });
  const trouble = h("p", { class: "fault" });
  let failed = false;
  const cancel = button("Cancel", async () => {
    const text = "The bytes received are kept: a later download continues from there.";
    if (!failed && !(await sure(`Cancel the download of ${title}?`, text, "Cancel the download"))) return;
    await ask("DELETE", `api/v1/downloads/${encodeURIComponent(first.id)}`, [404]);
  }, "quiet");
  return {
    root: h("li", { class: "card item" },
      h("div", { class: "head" }, h("h3", { class: "name" }, title), badge, h("span", { class: "push" }, cancel)),
      done, source, facts, trouble),
    update(one) {
      failed = one.state === "failed";
      put(badge, one.state);
      attribute(badge, "data-tone", failed ? "bad" : "wait");
      done.hidden = failed;
      if (one.total_bytes) done.value = one.done_bytes / one.total_bytes;
      else done.removeAttribute("value");
      put(facts, failed ? "" : one.text);
      put(trouble, failed ? one.note : "");
      put(cancel, failed ? "Clear" : "Cancel");
      cancel.setAttribute("aria-label", `${cancel.textContent} the download of ${title}`);
    },
  };
}

// -- figures ----------------------------------------------------------------------------------------------------------

function figure(first) {
  const value = h("span");
  const of = h("small");
  const more = h("span");
  const filled = h("span");
  const bar = h("dd", { class: "bar", "aria-hidden": "true" }, filled);
  const root = h("div", { class: first.wide ? "wide" : null },
    h("dt", {}, first.name), h("dd", { class: "value" }, value, " ", of), bar, h("dd", { class: "more" }, more));
  return {
    root,
    update(one) {
      put(value, one.value);
      put(of, one.of);
      put(more, one.more ?? "");
      bar.hidden = one.part === undefined;
      if (!bar.hidden) filled.style.width = `${Math.min(100, 100 * one.part)}%`;
      attribute(filled, "data-tone", one.part > 0.95 ? "bad" : null);
    },
  };
}

const placed = (name) => state.places.find((one) => one.name === name);

/** The figures of the whole cluster, from those of its places. */
function placeFigures() {
  const used = state.places.filter((one) => one.state === "used" || one.state === "avoided");
  const sum = (value) => used.reduce((all, one) => all + value(one), 0);
  const cores = { name: "cores", value: count(sum((one) => one.cores)), of: `at ${many(used.length, "place")}` };
  const limited = used.length > 0 && used.every((one) => one.memory !== null);
  if (!limited) return [cores];
  const [taken, limit] = [sum((one) => one.used), sum((one) => one.memory)];
  return [{ name: `memory of ${many(used.length, "place")}, with ${many(sum((one) => one.cores), "core")}`, wide: true,
    value: size(taken), of: `of ${size(limit)}`, part: taken / limit }];
}

function figures() {
  const { server, memory, spares } = state;
  const ready = spares.filter((one) => one.ready).length;
  const writing = state.instances.reduce((sum, one) => sum + (one.pace ?? 0), 0);
  return [
    { name: "running", value: count(server.running), of: `of ${count(server.concurrency)}` },
    { name: "waiting", value: count(server.waiting), of: `of ${count(server.queue_size)}` },
    { name: "tokens per second", value: writing > 0 ? writing.toFixed(1) : "–", of: "" },
    ...(state.places.length > 0 ? [] : [
      { name: "spare workers ready", value: count(ready), of: spares.length > ready ? `of ${spares.length}` : "" },
    ]),
    ...(state.places.length > 0 ? placeFigures() : memory === null ? [{ name: "cores", value: count(server.cores), of: "" }] : [{
      name: `memory, on ${many(server.cores, "core")}`, wide: true, value: size(memory.used), of: `of ${size(memory.limit)}`,
      part: memory.used / memory.limit, more: words(
        memory.measured === null ? "" : `${size(memory.measured)} measured`,
        memory.sessions > 0 ? `${size(memory.sessions)} of sessions` : "",
        memory.available === null ? "" : `${size(memory.available)} free here`,
      ),
    }]),
    ...(memory?.devices ?? []).map((one) => ({
      name: `GPU ${one.name}`, wide: true, value: size(one.used), of: `of ${size(one.limit)}`, part: one.used / one.limit,
      more: `${size(one.total)} in all`,
    })),
  ];
}

// -- everything -------------------------------------------------------------------------------------------------------

const rows = {
  problems: new Rows($("problem-rows"), (text) => ({ root: h("li", {}, text), update() {} })),
  figures: new Rows($("counts"), figure),
  models: new Rows($("model-rows"), modelRow, "None. Install a plugin that offers a model, or configure one in lllms.toml."),
  places: new Rows($("place-rows"), placeRow),
  instances: new Rows($("instance-rows"), instanceRow, "None. A model is loaded when somebody asks for it."),
  requests: new Rows($("request-rows"), requestRow, "Nothing runs, and nothing waits."),
  ended: new Rows($("ended-rows"), endedRow, "None since the server started."),
  downloads: new Rows($("download-rows"), downloadRow),
};

function render() {
  if (state.server === undefined) return;
  put($("version"), state.server.version);
  document.title = `lllms: ${state.server.running} running, ${state.server.waiting} waiting`;
  rows.problems.show(state.problems, (text) => text);
  rows.figures.show(figures(), (one) => one.name);
  rows.models.show(state.models, (one) => one.name);
  rows.places.show(state.places, (one) => one.id);
  $("places").hidden = state.places.length === 0;
  rows.instances.show(state.instances, (one) => one.id);
  rows.requests.show(state.requests, (one) => one.id);
  rows.ended.show(state.ended, (one) => one.id);
  rows.downloads.show(state.downloads, (one) => one.id);
  $("downloads").hidden = state.downloads.length === 0;
  showChoice();
}

// -- the server -------------------------------------------------------------------------------------------------------

const client = () => new Client({ apiKey: key });

function stored() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // the browser keeps nothing: the key lasts as long as the page
  }
}

function keep(secret) {
  key = secret;
  try {
    if (secret === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, secret);
  } catch {
    // as above
  }
}

/** Call the server; answers with one of these statuses are no errors. */
async function ask(method, path, allowed = [], options = {}) {
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  const response = await fetch(new URL(path, BASE), { method, headers, cache: "no-store", ...options });
  if (response.ok || allowed.includes(response.status)) return response;
  const told = await response.json().catch(() => ({}));
  throw Object.assign(new Error(told.error?.message ?? `The server answers ${response.status}.`), { status: response.status });
}

function connection(kind, text) {
  $("live").hidden = false;
  attribute($("live"), "data-state", kind);
  put($("live-text"), text);
  if (kind === "live") page.removeAttribute("data-stale");
  else if (kind === "lost") page.setAttribute("data-stale", "");
}

/** Follow the events of the server until the connection ends. */
async function follow(controller, connected) {
  const response = await ask("GET", "api/v1/status/events", [], { signal: controller.signal });
  const reader = new EventReader();
  const body = response.body.getReader();
  let patience = 30_000;
  while (true) {
    const timer = setTimeout(() => controller.abort(new Error("the server is silent")), patience);
    const { done, value } = await body.read().finally(() => clearTimeout(timer));
    if (done) throw new Error("the server has closed the connection");
    for (const event of reader.read(value)) {
      const data = JSON.parse(event.data);
      if (event.type === "hello") {
        skew = data.now * 1000 - Date.now();
        patience = 3000 * data.interval;
        put($("who-name"), data.key);
        $("who").hidden = data.key === null;
        state = {};
        connected();
      } else {
        Object.assign(state, data);
        reveal();
        render();
      }
    }
  }
}

function reveal() {
  page.hidden = $("nav").hidden = false;
  $("key-page").hidden = true;
}

let wake = () => {};
let current = null;

/** Stay connected, for as long as somebody looks. */
async function watch() {
  let pause = FIRST_PAUSE;
  while (true) {
    if (document.hidden) await new Promise((resolve) => { wake = resolve; });
    current = new AbortController();
    if (page.hidden) connection("connecting", "connecting");
    let why;
    try {
      await follow(current, () => {
        pause = FIRST_PAUSE;
        connection("live", "live");
      });
    } catch (error) {
      why = error;
    }
    current.abort();
    if (document.hidden) continue; // it was closed because nobody looked
    if (why.status === 401) {
      await askForKey(key === null ? "" : why.message);
      continue;
    }
    const seconds = Math.ceil(pause / 1000);
    connection("lost", `not connected; next try in ${seconds} s`);
    $("live").title = why.message;
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, pause * (0.8 + 0.4 * Math.random()));
    });
    connection("lost", "connecting again");
    pause = Math.min(LONGEST_PAUSE, pause * 2);
  }
}

let closing = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(closing);
  if (document.hidden) closing = setTimeout(() => current?.abort(), HIDDEN);
  else wake();
});
addEventListener("online", () => wake());

/** Return when there is a key to try. */
function askForKey(fault) {
  keep(null);
  page.hidden = $("nav").hidden = $("who").hidden = true;
  $("key-page").hidden = false;
  connection("locked", "needs an API key");
  put($("key-fault"), fault);
  $("key").value = "";
  $("key").focus();
  return new Promise((resolve) => {
    $("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      keep($("key").value.trim());
      put($("key-fault"), "");
      resolve();
    }, { once: true });
  });
}

$("forget").addEventListener("click", () => {
  keep(null);
  location.reload(); // nothing of what was shown stays
});

// -- trying a model ---------------------------------------------------------------------------------------------------

const said = []; // the conversation, as the next request sends it
let answering = null; // aborts the running answer

/** Offer the models that chat, and keep the choice. */
function showChoice() {
  const names = state.models.filter(
    (one) => one.state !== "broken" && (one.abilities?.tasks ?? ["chat"]).includes("chat"),
  ).map((one) => one.name);
  const choice = $("try-model");
  if ([...choice.options].map((one) => one.value).join("\n") === names.join("\n")) return;
  const before = choice.value;
  choice.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  if (names.includes(before)) choice.value = before;
}

/** Add a message to the conversation on the page; return its parts. */
function addMessage(role, by) {
  const text = h("div", { class: "text" });
  const thoughts = h("div", { class: "text" });
  const thinking = h("details", { class: "thoughts", hidden: "" }, h("summary", {}, "Thoughts"), thoughts);
  const about = h("p", { class: "about", hidden: "" });
  $("hint").hidden = true;
  $("log").append(h("article", { class: `said ${role}` }, h("p", { class: "by" }, by), thinking, text, about));
  return { text, thoughts, thinking, about };
}

/** Change the conversation, and keep its end in sight if it was. */
function scrolled(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function say(message) {
  const model = $("try-model").value;
  const controller = answering = new AbortController();
  const answer = { role: "assistant", content: "", thoughts: "" };
  scrolled(() => addMessage("user", "You").text.append(message));
  let shown;
  scrolled(() => { shown = addMessage("assistant", model); });
  $("log").scrollTop = $("log").scrollHeight;
  busy(true);
  said.push({ role: "user", content: message });
  try {
    for await (const event of client().chat({ model, messages: said }, { signal: controller.signal })) {
      scrolled(() => showEvent(event, shown, answer));
    }
  } catch (error) {
    const text = controller.signal.aborted ? "Stopped." : error.message;
    scrolled(() => {
      put(shown.about, text);
      shown.about.classList.toggle("fault", !controller.signal.aborted);
    });
  } finally {
    if (controller === answering) {
      // A message without an answer is not sent again with the next one.
      if (answer.content === "") said.pop();
      else said.push(answer.thoughts === "" ? { role: answer.role, content: answer.content } : answer);
      busy(false);
    }
  }
}

function showEvent(event, shown, answer) {
  switch (event.type) {
    case "queued":
      put($("progress"), `Waits for its turn: ${event.position}${event.reason ? `, ${event.reason}` : ""}`);
      break;
    case "loading":
      put($("progress"), event.about);
      break;
    case "prompt":
      put($("progress"), event.progress === null || event.progress === 1 ? "Reads the prompt" : `Reads the prompt: ${share(event.progress)}`);
      break;
    case "thoughts":
      put($("progress"), "Thinks");
      if (shown.thinking.hidden) shown.thinking.open = true; // until the answer begins
      shown.thinking.hidden = false;
      answer.thoughts += event.text;
      shown.thoughts.append(event.text);
      break;
    case "text":
      put($("progress"), "Writes");
      if (answer.content === "") shown.thinking.open = false;
      answer.content += event.text;
      shown.text.append(event.text);
      break;
    case "usage":
      put(shown.about, words(
        many(event.completion_tokens, "token"), pace(event),
        `${count(event.cached_tokens)} of ${count(event.prompt_tokens)} prompt tokens cached`,
        `first token after ${exact(event.timings.queued + event.timings.load + event.timings.prompt)}`,
      ));
      break;
    case "done":
      if (event.reason === "length" || event.reason === "timeout") {
        put(shown.about, words(shown.about.textContent, event.reason === "length" ? "cut: no more tokens allowed" : "cut: out of time"));
      }
      break;
  }
}

function pace({ completion_tokens: tokens, timings }) {
  return tokens > 1 && timings.answer > 0 ? rate((tokens - 1) / timings.answer) : "";
}

function busy(on) {
  if (!on) answering = null;
  $("stop").hidden = !on;
  attribute($("send"), "aria-disabled", on ? "true" : null);
  attribute($("log"), "aria-busy", on ? "true" : "false");
  put($("progress"), on ? "Asks" : "");
  $("progress").hidden = false; // so that the page does not jump
}

function stopAnswer() {
  if (answering === null) return;
  const focused = document.activeElement === $("stop");
  answering.abort();
  if (focused) $("message").focus();
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value;
  if (answering !== null || text.trim() === "" || $("try-model").value === "") return;
  $("message").value = "";
  say(text);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
});
$("stop").addEventListener("click", stopAnswer);
$("clear").addEventListener("click", () => {
  answering?.abort();
  said.length = 0;
  busy(false);
  $("log").replaceChildren($("hint"));
  $("hint").hidden = false;
  $("message").focus();
});
$("try").addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopAnswer();
});
document.addEventListener("keydown", (event) => {
  if (!event.altKey || event.ctrlKey || event.metaKey || event.code !== "KeyT" || page.hidden) return;
  event.preventDefault();
  $("message").focus();
});

// -- start ------------------------------------------------------------------------------------------------------------

try {
  ({ Client, EventReader } = await import(new URL("../client.js", import.meta.url)));
  setInterval(() => document.hidden || render(), 1000); // what is told in seconds
  busy(false);
  await watch();
} catch (error) {
  connection("lost", "this page does not work");
  tell(`This page needs the native chat of lllms (plugin chat): ${error.message}`);
}
