
"use strict";
(() => {
/* One file, read from the top: helpers, what is known of the run, how it comes in, the tree, the timeline,
   the panels, the approvals. Data comes in by slices of a few milliseconds and marks what is to be drawn;
   all drawing is done in one place, once for a frame of the screen (see "frame"). Words of strangers only
   ever become text, never HTML. */

const SLICE_MS = 8;            // so long data is taken in before the tab may answer a key
const BIG_FAMILY = 50;         // more children than this are folded at first
const MOST_SPANS = 700_000;    // kept here; beyond, the older half goes
const MOST_ARROWS = 200_000;
const MOST_NOTES = 1_000;
const MOST_DRAWN = 3_000;      // messages drawn at once
const LATEST = 200;            // rows of a table in the panel
const ARMING_MS = 500;         // so long a button that has just appeared takes no click
const FOLD_AT = 2_000;         // characters of a long text that are shown at first
const FOLD_LINES = 40;
const MORE = 50_000;           // characters that "show more" adds
const MESSAGES_AT_ONCE = 60;   // of a transcript
const KINDS = ["starting", "running", "perceiving", "reasoning", "acting", "waiting", "approval", "retrying"];
const KIND_WORDS = {
  starting: "starting", running: "running", perceiving: "perceiving", reasoning: "reasoning", acting: "acting",
  waiting: "waiting", approval: "waiting for approval", retrying: "retrying",
};

// -- helpers ---------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/* What would not be seen, or would change the order of what is. The second also has what is seen but is
   not what it seems: spaces of other widths, and marks that join letters. */
const UNSEEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]+/gu;
const UNSEEN_EXACT = /(?:(?![\n])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\ufe00-\ufe0f\u{e0100}-\u{e01ef}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0])+/gu;
const UNSEEN_TEXT = /(?:(?![\n\t])[\p{Cc}\p{Cs}\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb])+/gu;
const SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"};

function escapes(characters) {
  let text = "";
  for (const each of characters) {
    const code = each.codePointAt(0);
    text += SHORT[each] || (code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`);
  }
  return text;
}

/* A text on one line: line ends are spaces, and what is not seen is an escape. */
function line(text, most = 300) {
  const cut = text.length > most ? text.slice(0, most) + "…" : text;
  return cut.replace(/[\r\n\t]+/g, " ").replace(UNSEEN, escapes);
}

function appendEscaped(element, text, unseen) {
  let from = 0;
  for (const found of text.matchAll(unseen)) {
    if (found.index > from) element.append(text.slice(from, found.index));
    element.append(make("i", {class: "esc", text: escapes(found[0])}));
    from = found.index + found[0].length;
  }
  if (from < text.length) element.append(text.slice(from));
}

/* Where a long text is cut at first: by characters or lines, never inside of a pair of surrogates. */
function foldAt(text, from, characters, lines) {
  let end = Math.min(text.length, from + characters);
  for (let at = from, n = 0; (at = text.indexOf("\n", at)) >= 0 && at < end; at++) {
    if (++n >= lines) { end = at; break; }
  }
  const code = text.charCodeAt(end - 1);
  return code >= 0xd800 && code <= 0xdbff && end < text.length ? end - 1 : end;
}

/* A text of any length: its begin, and a button for more. `onFold` hears how many characters are not shown. */
function longText(text, {exact = false, code = false, onFold = () => {}} = {}) {
  const body = make("pre", {class: `text${exact ? " exact" : ""}${code ? " code" : ""}`, dir: exact ? "ltr" : "auto"});
  const unseen = exact ? UNSEEN_EXACT : UNSEEN_TEXT;
  let shown = foldAt(text, 0, FOLD_AT, FOLD_LINES);
  if (text.length - shown < 200 && !text.slice(shown).includes("\n")) shown = text.length;
  appendEscaped(body, text.slice(0, shown), unseen);
  const box = make("div", {}, body);
  const left = () => text.length - shown;
  onFold(left());
  if (!left()) return box;
  const label = () => left() > MORE
    ? `Show ${number(MORE)} more of ${number(left())} characters` : `Show all (${number(left())} more characters)`;
  const button = make("button", {type: "button", class: "plain", text: label()});
  button.addEventListener("click", () => {
    const end = foldAt(text, shown, MORE, Infinity);
    appendEscaped(body, text.slice(shown, end), unseen);
    shown = end;
    onFold(left());
    if (left()) button.textContent = label();
    else {
      body.tabIndex = 0;
      button.remove();
      body.focus({preventScroll: true});
    }
  });
  box.append(button);
  return box;
}

const NUMBER = new Intl.NumberFormat("en");
const SHORTER = new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 1});
const number = (value) => NUMBER.format(value);
const shorter = (value) => Math.abs(value) < 10_000 ? NUMBER.format(value) : SHORTER.format(value);
const money = (value) => `$${value < 1 ? value.toFixed(4) : value < 1000 ? value.toFixed(2) : number(Math.round(value))}`;

function duration(seconds) {
  if (!(seconds >= 0)) return "";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return moment(seconds, 0);
}

/* A moment of the run: 1:05, or 1:02:03.4. */
function moment(seconds, digits = 1) {
  const factor = 10 ** digits;
  const whole = Math.round(Math.max(0, seconds) * factor) / factor;
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole % 3600 / 60);
  const rest = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/* The first index whose value is above (or at) a limit; values rise. */
function firstAbove(values, limit, from = 0) {
  let low = from, high = values.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] > limit) high = middle; else low = middle + 1;
  }
  return low;
}

function firstFrom(values, limit, from = 0) {
  let low = from, high = values.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] >= limit) high = middle; else low = middle + 1;
  }
  return low;
}

const kept = {
  get(key) { try { return sessionStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { sessionStorage.setItem(key, value); } catch { /* a file may have no storage */ } },
};

// -- what is known of the run ----------------------------------------------------------------------

const page = JSON.parse($("run").textContent);
const run = {
  live: Boolean(page.live), id: page.run || "", title: page.title || "", exit: page.exit || "",
  ended: !page.live, connected: false, time: 0, timeAt: 0, lastId: "",
  totals: null, dropped: null, pool: page.pool || null, approvals: [],
};
const agents = new Map();
const namesakes = new Map();   // how many agents have a name
const orphans = new Map();     // children of agents that are not known (yet, or any more)
let roots = [];
let arrows = [];
let arrowTimes = [];
const notes = [];
let notesEver = 0;
let spansKept = 0;
const counts = {starting: 0, working: 0, waiting: 0, approval: 0, retrying: 0, completed: 0, failed: 0, aborted: 0};
const words = new Map();       // one copy of each detail

class Agent {
  constructor(row) {
    this.id = row.id;
    this.row = row;
    this.lower = row.name.toLowerCase();
    this.parent = null;
    this.children = [];
    this.folded = null;        // null until it has children
    this.below = 0;
    this.failedBelow = 0;
    this.liveBelow = 0;
    this.starts = [];
    this.ends = [];
    this.kinds = [];
    this.details = [];
    this.blocked = [];
    this.spansEver = 0;
    this.arrows = [];
    this.arrowsEver = 0;
    this.at = -1;              // in the list that is shown
    this.level = 1;
    this.position = 1;
    this.siblings = 1;
    this.group = groupOf(row);
    this.kept = false;
    this.beside = false;       // shown only because of one below it
  }
  get name() { return line(this.row.name, 200) || `#${this.id}`; }
  get state() { return this.row.state || "running"; }
  get hasEnded() { return this.row.ended !== undefined; }
}

function groupOf(row) {
  if (row.ended !== undefined) return row.state;
  switch (row.kind) {
    case "starting": case "waiting": case "approval": case "retrying": return row.kind;
    default: return "working";
  }
}

function nameOf(id) {
  if (!id) return "the program";
  const agent = agents.get(id);
  if (!agent) return `#${id}`;
  return namesakes.get(agent.row.name) > 1 ? `${agent.name} #${id}` : agent.name;
}

function namesOf(ids, most = 3) {
  if (!ids || !ids.length) return "anybody";
  const told = ids.slice(0, most).map(nameOf).join(", ");
  return ids.length > most ? `${told} and ${number(ids.length - most)} more` : told;
}

function kindWords(kind, detail, blocked) {
  const what = detail ? line(detail, 120) : "";
  switch (kind) {
    case "waiting": return `waits for ${namesOf(blocked)}`;
    case "approval": return what ? `waits for approval of ${what}` : "waits for approval";
    case "retrying": return what ? `retries: ${what}` : "retries";
    case "acting": return what ? `acts: ${what}` : "acts";
    case "reasoning": return what ? `reasons with ${what}` : "reasons";
    case "perceiving": return "perceives";
    case "starting": return what === "restart" ? "restarts" : "starts";
    default: return "runs";
  }
}

function doingOf(agent) {
  const row = agent.row;
  if (agent.hasEnded) return row.reason ? `${row.state}: ${line(row.reason, 200)}` : row.state;
  const doing = kindWords(row.kind, row.detail, row.blocked_on);
  return row.stuck ? `aborted, and does not end; ${doing}` : doing;
}

function markOf(agent) {
  return agent.hasEnded ? agent.row.state : agent.row.kind || "running";
}

function now() {
  if (!run.live || run.ended || !run.connected) return run.time;
  return run.time + (performance.now() - run.timeAt) / 1000;
}

function setTime(seconds) {
  run.time = seconds;
  run.timeAt = performance.now();
}

// -- taking data in --------------------------------------------------------------------------------

function forget() {
  agents.clear();
  namesakes.clear();
  orphans.clear();
  words.clear();
  roots = [];
  arrows = [];
  arrowTimes = [];
  notes.length = 0;
  notesEver = 0;
  spansKept = 0;
  for (const key of Object.keys(counts)) counts[key] = 0;
  run.totals = run.dropped = null;
  setTime(0);
}

/* Where an agent stands among its siblings: by its id, as they were spawned. */
function insertById(list, agent) {
  if (!list.length || list[list.length - 1].id < agent.id) { list.push(agent); return; }
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (list[middle].id < agent.id) low = middle + 1; else high = middle;
  }
  list.splice(low, 0, agent);
}

function countBelow(agent, many, live, failed) {
  for (let above = agent; above; above = above.parent) {
    above.below += many;
    above.liveBelow += live;
    above.failedBelow += failed;
  }
}

function addAgent(row) {
  const agent = new Agent(row);
  agents.set(row.id, agent);
  namesakes.set(row.name, (namesakes.get(row.name) || 0) + 1);
  counts[agent.group]++;
  const parent = agents.get(row.parent || 0);
  if (parent) adopt(parent, agent);
  else {
    insertById(roots, agent);
    if (row.parent) {
      if (!orphans.has(row.parent)) orphans.set(row.parent, new Set());
      orphans.get(row.parent).add(agent);
    }
  }
  const waiting = orphans.get(row.id);
  if (waiting) {
    orphans.delete(row.id);
    roots = roots.filter((each) => !waiting.has(each));
    for (const child of waiting) adopt(agent, child);
  }
}

const newFamilies = new Set();

function adopt(parent, agent) {
  if (!parent.children.length) newFamilies.add(parent);
  insertById(parent.children, agent);
  agent.parent = parent;
  countBelow(parent, 1 + agent.below, Number(!agent.hasEnded) + agent.liveBelow,
    Number(agent.row.state === "failed") + agent.failedBelow);
}

function takeRow(row) {
  const agent = agents.get(row.id);
  if (!agent) { addAgent(row); need("list"); return; }
  const before = agent.group;
  const wasLive = !agent.hasEnded, hadFailed = agent.row.state === "failed";
  agent.row = row;
  const group = agent.group = groupOf(row);
  if (group === before) return;
  counts[before]--;
  counts[group]++;
  if (filter.value) need("list");
  const live = Number(!agent.hasEnded) - Number(wasLive), failed = Number(row.state === "failed") - Number(hadFailed);
  if (agent.parent && (live || failed)) countBelow(agent.parent, 0, live, failed);
}

function takeGone(id) {
  const agent = agents.get(id);
  if (!agent) return;
  agents.delete(id);
  const others = namesakes.get(agent.row.name) - 1;
  if (others) namesakes.set(agent.row.name, others); else namesakes.delete(agent.row.name);
  counts[agent.group]--;
  spansKept -= agent.starts.length;
  const siblings = agent.parent ? agent.parent.children : roots;
  const at = siblings.indexOf(agent);
  if (at >= 0) siblings.splice(at, 1);
  if (agent.parent) countBelow(agent.parent, -1 - agent.below, -Number(!agent.hasEnded) - agent.liveBelow,
    -Number(agent.row.state === "failed") - agent.failedBelow);
  for (const child of agent.children) {
    child.parent = null;
    insertById(roots, child);
  }
  need("list");
}

function takeSpan([id, kind, start, end, detail, blocked]) {
  const agent = agents.get(id);
  if (!agent) return;
  agent.starts.push(start);
  agent.ends.push(end);
  agent.kinds.push(KINDS.indexOf(kind));
  let word = detail || "";
  if (word) {
    if (words.size > 50_000) words.clear();
    const known = words.get(word);
    if (known === undefined) words.set(word, word); else word = known;
  }
  agent.details.push(word);
  agent.blocked.push(blocked || null);
  agent.spansEver++;
  spansKept++;
}

function takeArrow([time, from, to, id, kind]) {
  const sender = agents.get(from) || null, heard = agents.get(to) || null;
  const arrow = {time, from, to, id, kind, sender, heard};
  arrows.push(arrow);
  arrowTimes.push(time);
  for (const agent of sender === heard ? [sender] : [sender, heard]) {
    if (!agent) continue;
    agent.arrows.push(arrow);
    agent.arrowsEver++;
    if (agent.arrows.length > 4 * LATEST) agent.arrows.splice(0, 2 * LATEST);
  }
}

function takeNote(note) {
  notes.push(note);
  notesEver++;
}

function* takeAll(list, take) {
  for (let at = 0; at < list.length; at++) {
    take(list[at]);
    if (at % 128 === 127) yield;
  }
}

function* takeChanges(changes) {
  if (changes.reset) { forget(); need("list"); }
  yield* takeAll(changes.gone || [], takeGone);
  yield* takeAll(changes.agents || [], takeRow);
  yield* takeAll(changes.spans || [], takeSpan);
  yield* takeAll(changes.arrows || [], takeArrow);
  yield* takeAll(changes.notes || [], takeNote);
  if (notes.length > MOST_NOTES) notes.splice(0, notes.length - MOST_NOTES);
  if (spansKept > MOST_SPANS) yield* trimSpans();
  if (arrows.length > MOST_ARROWS) {
    arrows.splice(0, arrows.length - MOST_ARROWS / 2);
    arrowTimes.splice(0, arrowTimes.length - MOST_ARROWS / 2);
  }
  for (const parent of newFamilies) {
    if (parent.folded === null) parent.folded = parent.children.length > BIG_FAMILY;
  }
  newFamilies.clear();
  if (changes.totals) run.totals = changes.totals;
  if (changes.dropped) run.dropped = changes.dropped;
  if (changes.pool !== undefined) run.pool = changes.pool;
  if (changes.time !== undefined) setTime(changes.time);
  if (changes.approvals !== undefined) { run.approvals = changes.approvals; need("approvals"); }
  need("rows", "lanes", "head", "agent", "pool", "notes");
}

/* Let the older half of the spans go: those that had ended before the median of some of them. */
function* trimSpans() {
  const ends = [];
  for (const agent of agents.values()) {
    for (let at = 0; at < agent.ends.length; at += 97) ends.push(agent.ends[at]);
  }
  ends.sort((a, b) => a - b);
  const before = ends[ends.length >> 1];
  let seen = 0;
  for (const agent of agents.values()) {
    const many = firstFrom(agent.ends, before);
    if (many) {
      for (const list of [agent.starts, agent.ends, agent.kinds, agent.details, agent.blocked]) list.splice(0, many);
      spansKept -= many;
    }
    if (++seen % 64 === 0) yield;
  }
}

/* The queue: functions that begin a piece of work, each a generator that pauses every now and then. */
const queue = [];
let working = null;
const channel = new MessageChannel();
channel.port1.onmessage = () => {
  const until = performance.now() + SLICE_MS;
  do {
    if (!working) {
      const begin = queue.shift();
      if (!begin) { pumping = false; return; }
      working = begin();
    }
    try {
      if (working.next().done) working = null;
    } catch (error) {
      working = null;
      trouble(`Something that the server sent could not be read: ${error.message}`);
    }
  } while (performance.now() < until);
  channel.port2.postMessage(null);
};
let pumping = false;

function enqueue(begin) {
  queue.push(begin);
  if (!pumping) { pumping = true; channel.port2.postMessage(null); }
}

// -- the connection --------------------------------------------------------------------------------

const ANSWER_MS = 8_000;      // after so long without an answer the server hangs
const BACKOFF = [1, 2, 4, 8, 15, 30];
let source = null;
let failures = 0;
let retryTimer = 0;
let retryAt = 0;
let connectionWords = "";
let connectionIsBad = false;

function tellConnection(text, isBad = false) {
  connectionWords = text;
  connectionIsBad = isBad;
  need("head");
}

function connect() {
  clearTimeout(retryTimer);
  retryAt = 0;
  if (source) source.close();
  source = new EventSource(run.lastId ? `/events?since=${encodeURIComponent(run.lastId)}` : "/events");
  openBy();
  source.addEventListener("open", () => {
    clearTimeout(openTimer);
    failures = 0;
    setTime(now());
    run.connected = true;
    tellConnection("live");
  });
  source.addEventListener("changes", (event) => {
    const {data, lastEventId} = event;
    const id = lastEventId.slice(0, lastEventId.lastIndexOf("-"));
    run.lastId = lastEventId;
    enqueue(function* () {
      if (id !== run.id) startOver();
      run.id = id;
      const changes = JSON.parse(data);
      yield;
      yield* takeChanges(changes);
    });
  });
  source.addEventListener("end", (event) => {
    source.close();
    const {data} = event;
    enqueue(function* () {
      setTime(now());
      run.ended = true;
      run.connected = false;
      let exit = "";
      try { exit = JSON.parse(data).exit; } catch { /* it has ended all the same */ }
      run.exit = exit || "ended";
      run.approvals = [];
      tellConnection("nothing more will come: the run is over");
      need("approvals", "lanes", "rows", "agent");
    });
  });
  source.addEventListener("error", () => {
    setTime(now());
    run.connected = false;
    failures++;
    const gaveUp = source.readyState === EventSource.CLOSED;
    if (!gaveUp && failures === 1) {
      openBy();
      tellConnection("connection lost; connecting again…", true);
      return;
    }
    clearTimeout(openTimer);
    source.close();
    if (gaveUp) probe(); else retryLater();
  });
}

/* A connection that is taken and not served reports no error. */
let openTimer = 0;
function openBy() {
  clearTimeout(openTimer);
  const mine = source;
  openTimer = setTimeout(() => {
    if (mine !== source || mine.readyState !== EventSource.CONNECTING) return;
    mine.close();
    failures++;
    retryLater();
  }, ANSWER_MS);
}

function retryLater() {
  const seconds = BACKOFF[Math.min(failures, BACKOFF.length) - 1] * (0.8 + 0.4 * Math.random());
  retryAt = performance.now() + seconds * 1000;
  retryTimer = setTimeout(connect, seconds * 1000);
  tellConnection("no connection to the run", true);
}

/* The server answered, and not with a stream: has it forgotten us, or is it another one? */
async function probe() {
  try {
    const answer = await fetch("/", {cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS)});
    if (answer.status === 401 || answer.status === 403) {
      clearTimeout(retryTimer);
      retryAt = 0;
      tellConnection("the server does not know this page (any more): open the address that the program printed", true);
      return;
    }
  } catch { /* it is away */ }
  retryLater();
}

/* Another run answers at the same address. */
function startOver() {
  forget();
  run.approvals = [];
  run.pool = null;
  chosen = active = null;
  need("list", "approvals", "agent");
  fetch("/", {cache: "no-store"}).then((answer) => answer.text()).then((text) => {
    const found = new DOMParser().parseFromString(text, "text/html").getElementById("run");
    if (found) {
      const told = JSON.parse(found.textContent);
      run.title = told.title || "";
      page.leaves = told.leaves;
    }
    need("head");
  }).catch(() => {});
}

function trouble(text) {
  $("trouble").hidden = false;
  setText($("trouble"), line(text, 500));
}

/* Ask the server for something, and return what it said against it, empty if nothing. */
async function post(path, data) {
  try {
    const answer = await fetch(path, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(data),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    if (answer.ok) return "";
    const text = line((await answer.text()).trim(), 300);
    if (answer.status === 404) return text || "There is no such thing any more.";
    if (answer.status === 409) return text || "It was decided already.";
    if (answer.status === 403) return "The server does not know this page any more. Open the address that the program printed.";
    return text || `The server answered ${answer.status}.`;
  } catch (error) {
    if (error.name === "TimeoutError") return "The server did not answer. See whether it was done before you try again.";
    return "There is no connection to the run, and probably nothing was sent. Try again when it is back.";
  }
}

// -- drawing: once for a frame, and not while the tab is hidden --------------------------------------

const dirty = new Set();
let frameAsked = false;

function need(...parts) {
  for (const part of parts) dirty.add(part);
  if (!frameAsked && !document.hidden) {
    frameAsked = true;
    requestAnimationFrame(frame);
  }
}

const waited = new Map();

/* Whether a part that need not be drawn at each frame may be drawn now; if not, it will be later. */
function mayDraw(part, every) {
  const at = performance.now();
  const next = (waited.get(part) || -Infinity) + every;
  if (at >= next) { waited.set(part, at); return true; }
  setTimeout(() => need(part), next - at + 1);
  return false;
}

function frame() {
  frameAsked = false;
  const parts = new Set(dirty);
  dirty.clear();
  if (parts.has("list") && mayDraw("list", listCost * 8)) { relist(); parts.add("rows").add("lanes"); }
  if (parts.has("rows")) drawRows();
  if (parts.has("approvals")) drawApprovals();
  if (parts.has("head") && mayDraw("head", 200)) drawHead();
  if (parts.has("agent") && mayDraw("agent", 250)) drawAgent();
  if (parts.has("pool") && !$("panel-pool").hidden && mayDraw("pool", 300)) drawPool();
  if (parts.has("notes") && mayDraw("notes", 300)) drawNotes();
  if (parts.has("lanes")) drawLanes();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) need("list", "rows", "approvals", "head", "agent", "pool", "notes", "lanes");
  else document.title = tabTitle();
});

// -- the head --------------------------------------------------------------------------------------

function stateOfRun() {
  if (run.ended) {
    if (run.exit) {
      const exit = line(run.exit, 120);
      const code = /exit code (\d+)/.exec(exit);
      if (/paused|unfinished|resumed/i.test(exit)) return [exit, "warn"];
      const isGood = code ? code[1] === "0" : /^(completed|ended|done|the pool has ended)/i.test(exit);
      return [exit, isGood && !counts.failed ? "good" : isGood ? "" : "bad"];
    }
    const open = agents.size - counts.completed - counts.failed - counts.aborted;
    if (open) return ["did not come to its end", "warn"];
    return counts.failed ? ["ended, with failures", "bad"] : ["ended", "good"];
  }
  if (!run.totals) return ["connecting", ""];
  if (run.pool && run.pool.draining) return ["draining", "warn"];
  return ["running", "good"];
}

function tabTitle() {
  const open = run.approvals.length ? `(${run.approvals.length}) ` : "";
  return `${open}${stateOfRun()[0]} · ${line(run.title, 80)} · agentpool`;
}

const totalParts = new Map();

function setTotal(key, label, text, title = "") {
  let part = totalParts.get(key);
  if (!part) {
    part = make("div", {}, make("dt", {text: label}), make("dd"));
    totalParts.set(key, part);
    $("totals").append(part);
  }
  part.hidden = text === "";
  if (title) part.title = title;
  setText(part.lastChild, text);
}

function setMeter(key, label, share, text) {
  let part = totalParts.get(key);
  if (!part) {
    const meter = make("span", {class: "meter", "aria-hidden": "true"}, make("span"));
    part = make("div", {}, make("dt", {text: label}), make("dd", {}, meter, make("span")));
    totalParts.set(key, part);
    $("totals").append(part);
  }
  const [meter, words] = part.lastChild.children;
  meter.firstChild.style.width = `${Math.min(100, 100 * share)}%`;
  setAttribute(meter, "data-tone", share >= 0.9 ? "bad" : "");
  setText(words, text);
}

const BUDGETS = [["tokens", "Tokens", shorter], ["cost", "Money", money], ["calls", "Model calls", number]];

function budgetLines() {
  const budget = run.pool && run.pool.budget;
  if (!budget) return [];
  return BUDGETS.flatMap(([key, label, tell]) => {
    const limit = budget.limit && budget.limit[key];
    if (limit === null || limit === undefined) return [];
    const spent = (budget.spent && budget.spent[key]) || 0;
    const left = budget.remaining ? budget.remaining[key] : null;
    return [{key, label, tell, limit, spent, left: left === null || left === undefined ? limit - spent : left}];
  });
}

for (const [key, label] of [["agents", "Agents"], ["tokens", "Tokens"], ["cost", "Cost"], ["rates", "Per second"], ["slots", "Slots"], ["messages", "Messages"], ["dead", "Dead letters"]]) {
  setTotal(key, label, "");
}

function drawHead() {
  const [state, tone] = stateOfRun();
  setText($("title"), line(run.title, 200));
  setText($("state"), state);
  setAttribute($("state"), "data-tone", tone);
  setText($("elapsed"), moment(now(), 0));
  let words = connectionWords;
  if (retryAt) words += `; next attempt in ${Math.max(0, Math.ceil((retryAt - performance.now()) / 1000))} s`;
  if (!run.live) words = "a file: nothing more will come";
  setText($("connection"), words);
  setAttribute($("connection"), "data-tone", connectionIsBad ? "bad" : "");
  $("retry").hidden = !retryAt;
  const {totals, pool} = run;
  const told = [
    ["working", "working"], ["waiting", "waiting"], ["approval", "asking"], ["retrying", "retrying"],
    ["starting", "starting"], ["completed", "completed"], ["failed", "failed"], ["aborted", "aborted"],
  ].map(([key, word]) => {
    const ended = totals && totals[key];
    const many = ended === undefined || ended === null ? counts[key] : ended;
    return many ? `${number(many)} ${word}` : "";
  }).filter(Boolean).join(", ");
  const spawned = totals ? totals.spawned : agents.size;
  setTotal("agents", "Agents", `${number(spawned)}${told ? `: ${told}` : ""}`);
  if (totals) {
    const rates = totals.rates || {};
    setTotal("tokens", "Tokens", shorter(totals.tokens), `${number(totals.tokens)} tokens`);
    setTotal("cost", "Cost", totals.cost ? money(totals.cost) : "");
    const isOn = run.live && !run.ended;
    setTotal("rates", "Per second", isOn ? `${shorter(Math.round(rates.tokens || 0))} tokens, ${rates.calls || 0} calls${rates.cost ? `, ${money(rates.cost)}` : ""}` : "");
  }
  if (pool) {
    setTotal("slots", "Slots", pool.slots ? `${number(pool.running)} of ${number(pool.slots)} in use` : "");
    setTotal("messages", "Messages", pool.messages ? number(pool.messages) : "");
    setTotal("dead", "Dead letters", pool.dead_letters ? number(pool.dead_letters) : "");
  }
  for (const {key, label, tell, limit, spent} of budgetLines()) {
    setMeter(`budget-${key}`, `Budget, ${label.toLowerCase()}`, limit ? spent / limit : 1, `${tell(spent)} of ${tell(limit)}`);
  }
  const open = run.approvals.length;
  setText($("go-approvals"), open ? plural(open, "approval") : "No approvals");
  setAttribute($("go-approvals"), "data-open", open > 0);
  $("go-approvals").hidden = !run.live;
  $("drain").hidden = !run.live || run.ended;
  const draining = Boolean(pool && pool.draining);
  $("drain").disabled = draining;
  setText($("drain"), draining ? "Draining" : "Drain the pool…");
  const title = tabTitle();
  if (document.title !== title) document.title = title;
}

$("retry").addEventListener("click", connect);

// -- theme ------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
let theme = THEMES.includes(kept.get("agentpool-theme")) ? kept.get("agentpool-theme") : "auto";

function applyTheme() {
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = theme;
  setText($("theme"), `Theme: ${theme}`);
  palette = null;
  need("lanes");
}

$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  kept.set("agentpool-theme", theme);
  applyTheme();
});

// -- the tree ----------------------------------------------------------------------------------------

const scroll = $("scroll"), tree = $("tree"), rowsBox = $("rows"), search = $("search"), filter = $("filter");
const COLUMNS = [
  ["name", "Name"], ["doing", "Doing"], ["turn", "Turn"], ["tokens", "Tokens"], ["cost", "Cost"],
  ["messages", "Messages"], ["time", "Time"], ["words", "Last words"],
];
let list = [];                 // the agents that are shown, in their order
let listCost = 0;              // ms that it took to make
let active = null;             // the agent whose row has the keyboard
let chosen = null;             // the agent in the panel
let wantFocus = false;         // its row is to be focused when it has been drawn
const views = new Map();       // of agents to their rows
let rowHeight = 28, headHeight = 28;

for (const [key, label] of COLUMNS) $("columns").append(make("div", {class: `cell c-${key}`, role: "columnheader", text: label}));

const FILTERS = [
  ["", "all"], ["live", "not ended"], ["working", "working"], ["waiting", "waiting"], ["approval", "asking for approval"],
  ["retrying", "retrying"], ["starting", "starting"], ["stuck", "aborted, and does not end"], ["completed", "completed"],
  ["failed", "failed"], ["aborted", "aborted"],
];
for (const [value, label] of FILTERS) filter.append(make("option", {value, text: label}));

function relist() {
  const began = performance.now();
  for (const agent of list) agent.at = -1;
  const before = active ? list.indexOf(active) : -1;
  const asked = search.value.trim().toLowerCase();
  const byId = /^#?\d+$/.test(asked) ? Number(asked.replace("#", "")) : -1;
  const group = filter.value;
  const isFiltered = Boolean(asked || group);
  let matches = 0;
  if (isFiltered) {
    for (const agent of agents.values()) agent.kept = agent.beside = false;
    for (const agent of agents.values()) {
      if (asked && !agent.lower.includes(asked) && agent.id !== byId) continue;
      if (group && !isInGroup(agent, group)) continue;
      matches++;
      agent.beside = false;
      agent.kept = true;
      for (let above = agent.parent; above && !above.kept; above = above.parent) above.kept = above.beside = true;
    }
  }
  list = [];
  const stack = [[roots, 0, 1]];
  while (stack.length) {
    const top = stack[stack.length - 1];
    const [siblings, , level] = top;
    if (top[1] >= siblings.length) { stack.pop(); continue; }
    const agent = siblings[top[1]++];
    if (isFiltered && !agent.kept) continue;
    agent.at = list.length;
    agent.level = level;
    agent.position = top[1];
    agent.siblings = siblings.length;
    if (!isFiltered) agent.beside = false;
    list.push(agent);
    if (agent.children.length && (isFiltered || !agent.folded)) stack.push([agent.children, 0, level + 1]);
  }
  if (active && active.at < 0) {
    const hadFocus = views.has(active) && views.get(active).root === document.activeElement;
    // The row is not there any more: a folded family is left to the one that was folded, else to a neighbour.
    let above = active.parent;
    while (above && above.at < 0) above = above.parent;
    active = above || list[Math.min(Math.max(before, 0), list.length - 1)] || null;
    if (hadFocus) wantFocus = true;
  }
  if (!active && list.length) active = list[0];
  setText($("found"), isFiltered ? `${plural(matches, "agent")} found` : `${number(list.length)} of ${number(agents.size)} shown`);
  $("empty").hidden = list.length > 0;
  setText($("empty"), agents.size ? "No agent fits the search and the state." : run.ended ? "The run had no agents." : "No agent has been spawned yet.");
  setAttribute(tree, "aria-rowcount", list.length + 1);
  isListFiltered = isFiltered;
  listCost = performance.now() - began;
}
let isListFiltered = false;

function isInGroup(agent, group) {
  if (group === "live") return !agent.hasEnded;
  if (group === "stuck") return !agent.hasEnded && Boolean(agent.row.stuck);
  return agent.group === group;
}

class RowView {
  constructor() {
    this.root = make("div", {class: "row", role: "row", tabindex: "-1"});
    this.fold = make("button", {type: "button", class: "fold", tabindex: "-1", "aria-hidden": "true"});
    this.label = make("span", {class: "label", dir: "auto"});
    this.under = make("span", {class: "under"});
    this.mark = make("span", {class: "mark", "aria-hidden": "true"});
    this.what = make("span", {class: "what"});
    this.cells = {};
    for (const [key] of COLUMNS) {
      const cell = this.cells[key] = make("div", {class: `cell c-${key}`, role: key === "name" ? "rowheader" : "gridcell"});
      this.root.append(cell);
    }
    this.cells.name.append(this.fold, this.label, this.under);
    this.cells.doing.append(this.mark, this.what);
    this.cells.words.dir = "auto";
    this.agent = null;
    this.seen = {};
    this.root.view = this;
  }

  put(key, value, set) {
    if (this.seen[key] === value) return;
    this.seen[key] = value;
    set(value);
  }

  draw(agent, time) {
    this.agent = agent;
    const {root, cells} = this, row = agent.row;
    const hasChildren = agent.children.length > 0;
    const isOpen = hasChildren && (isListFiltered || !agent.folded);
    this.put("y", agent.at * rowHeight, (y) => { root.style.transform = `translateY(${y}px)`; });
    this.put("index", agent.at + 2, (value) => root.setAttribute("aria-rowindex", value));
    this.put("level", agent.level, (value) => {
      root.setAttribute("aria-level", value);
      cells.name.style.setProperty("--level", Math.min(value - 1, 12));
    });
    this.put("position", agent.position, (value) => root.setAttribute("aria-posinset", value));
    this.put("siblings", agent.siblings, (value) => root.setAttribute("aria-setsize", value));
    this.put("open", hasChildren ? String(isOpen) : "", (value) => {
      setAttribute(root, "aria-expanded", value || null);
      this.fold.textContent = value === "true" ? "▾" : value === "false" ? "▸" : "";
      this.fold.style.visibility = value ? "" : "hidden";
    });
    this.put("chosen", agent === chosen, (value) => root.setAttribute("aria-selected", value));
    this.put("tab", agent === active ? 0 : -1, (value) => { root.tabIndex = value; });
    this.put("beside", agent.beside, (value) => root.classList.toggle("beside", value));
    this.put("name", row.name, () => { this.label.textContent = agent.name; cells.name.title = `${agent.name} (#${agent.id})`; });
    const under = hasChildren && !isOpen
      ? `${plural(agent.below, "agent")} below${agent.failedBelow ? `, ${number(agent.failedBelow)} failed` : ""}${agent.liveBelow ? `, ${number(agent.liveBelow)} live` : ""}` : "";
    this.put("under", under, (value) => { this.under.textContent = value; });
    this.put("mark", markOf(agent), (value) => { this.mark.dataset.kind = value; });
    this.put("doing", doingOf(agent), (value) => { this.what.textContent = value; cells.doing.title = value; });
    this.put("turn", row.turn || 0, (value) => { cells.turn.textContent = value ? number(value) : ""; });
    this.put("tokens", row.tokens || 0, (value) => { cells.tokens.textContent = value ? shorter(value) : ""; });
    this.put("cost", row.cost || 0, (value) => { cells.cost.textContent = value ? money(value) : ""; });
    const {sent = 0, heard = 0, dead = 0} = row;
    this.put("messages", sent || heard || dead ? `${number(sent)} / ${number(heard)}` : "", (value) => {
      cells.messages.textContent = value;
      if (value) cells.messages.title = `sent ${number(sent)}, heard ${number(heard)}${dead ? `, ${plural(dead, "dead letter")}` : ""}`;
    });
    const lasted = (agent.hasEnded ? row.ended : time) - (row.started === undefined ? row.spawned : row.started);
    this.put("time", lasted < 10 && !agent.hasEnded ? `${Math.floor(Math.max(lasted, 0))} s` : duration(lasted), (value) => { cells.time.textContent = value; });
    this.put("words", row.words || "", (value) => { cells.words.textContent = line(lastWords(value), 160); });
  }
}

/* The end of what was said: of a longer text the last line that says something. */
function lastWords(text) {
  const end = text.slice(-400).trimEnd();
  const last = end.slice(end.lastIndexOf("\n") + 1);
  return last.length > 120 ? `…${last.slice(-120)}` : last;
}

function drawRows() {
  const height = scrollHeight, top = scroll.scrollTop;
  if (bodyHeight !== list.length * rowHeight) {
    bodyHeight = list.length * rowHeight;
    rowsBox.style.height = `${bodyHeight}px`;
  }
  const first = Math.max(0, Math.floor(top / rowHeight) - 6);
  const last = Math.min(list.length, Math.ceil((top + height) / rowHeight) + 6);
  const focused = document.activeElement && document.activeElement.view ? document.activeElement.view.agent : null;
  const wanted = list.slice(first, last);
  const stays = wantFocus ? active : focused;
  if (stays && stays.at >= 0 && stays.at < first) wanted.unshift(stays);
  else if (stays && stays.at >= last) wanted.push(stays);
  const keep = new Set(wanted);
  // Rows that are not needed show other agents, in their order: after a leap no element has to move.
  const free = [];
  for (const row of rowsBox.children) {
    const {view} = row;
    if (keep.has(view.agent) && views.get(view.agent) === view) continue;
    if (row === document.activeElement) wantFocus = true;
    else free.push(view);
    views.delete(view.agent);
  }
  let used = 0;
  const time = now();
  let next = rowsBox.firstChild;
  for (const agent of wanted) {
    let view = views.get(agent);
    if (!view) views.set(agent, view = free[used++] || new RowView());
    view.draw(agent, time);
    if (view.root === next) { next = next.nextSibling; continue; }
    if (view.root === document.activeElement) {
      // What has the focus is not moved, or it would lose it: what stands before it is.
      while (next !== view.root) { const other = next; next = next.nextSibling; rowsBox.append(other); }
      next = next.nextSibling;
    } else rowsBox.insertBefore(view.root, next);
  }
  while (next) { const other = next; next = next.nextSibling; other.remove(); }
  const view = active && views.get(active);
  tree.tabIndex = view ? -1 : 0;
  if (wantFocus && view) {
    wantFocus = false;
    view.root.focus({preventScroll: true});
  }
}

/* Sizes are asked for when they change, not when something is drawn. */
let scrollHeight = 0, bodyHeight = -1;

function measure() {
  headHeight = rowHeight = $("columns").getBoundingClientRect().height || rowHeight;
  scrollHeight = scroll.clientHeight;
  paneWidth = timeline.clientWidth;
  paneHeight = timeline.clientHeight;
  need("rows", "lanes");
}

function show(agent) {
  const y = agent.at * rowHeight, height = scrollHeight - headHeight;
  if (y < scroll.scrollTop) scroll.scrollTop = y;
  else if (y + rowHeight > scroll.scrollTop + height) scroll.scrollTop = y + rowHeight - height;
}

function activate(agent, {focus = true} = {}) {
  if (!agent) return;
  active = agent;
  if (agent.at >= 0) show(agent);
  if (focus) wantFocus = true;
  need("rows", "lanes");
}

function choose(agent) {
  chosen = agent;
  showTab("agent");
  waited.delete("agent");
  need("rows", "agent", "lanes");
  say(`${agent.name} is shown in the panel.`);
  if (stacked.matches) requestAnimationFrame(() => $("tabs").scrollIntoView({block: "start"}));
}
const stacked = matchMedia("(max-width: 60rem)");

function setFolded(agent, folded) {
  if (!agent.children.length || isListFiltered) return;
  agent.folded = folded;
  waited.delete("list");
  need("list");
}

/* Unfold all that is above an agent, and go there. */
function goTo(agent) {
  for (let above = agent.parent; above; above = above.parent) above.folded = false;
  search.value = filter.value = "";
  relist();
  activate(agent);
  choose(agent);
}

rowsBox.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  const {agent} = row.view;
  activate(agent);
  if (event.target.closest(".fold")) setFolded(agent, !agent.folded);
  else choose(agent);
});
rowsBox.addEventListener("focusin", (event) => {
  const row = event.target.closest(".row");
  if (row && row.view.agent !== active) { active = row.view.agent; need("rows", "lanes"); }
});
tree.addEventListener("focus", () => activate(active || list[0]));

let typed = "", typedAt = 0;

function typeAhead(key) {
  const at = performance.now();
  typed = at - typedAt > 800 ? key : typed + key;
  typedAt = at;
  const asked = typed.toLowerCase();
  const repeated = asked.length > 1 && [...asked].every((each) => each === asked[0]);
  const wanted = repeated ? asked[0] : asked;
  const from = active ? active.at + (wanted.length === 1 ? 1 : 0) : 0;
  for (let step = 0; step < list.length; step++) {
    const agent = list[(from + step) % list.length];
    if (agent.lower.startsWith(wanted)) { activate(agent); return; }
  }
}

tree.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !list.length) return;
  const agent = active && active.at >= 0 ? active : list[0];
  const byPage = Math.max(1, Math.floor((scrollHeight - headHeight) / rowHeight) - 1);
  const go = (at) => activate(list[Math.max(0, Math.min(list.length - 1, at))]);
  switch (event.key) {
    case "ArrowDown": go(agent.at + 1); break;
    case "ArrowUp": go(agent.at - 1); break;
    case "PageDown": go(agent.at + byPage); break;
    case "PageUp": go(agent.at - byPage); break;
    case "Home": go(0); break;
    case "End": go(list.length - 1); break;
    case "ArrowRight":
      if (agent.children.length && agent.folded && !isListFiltered) setFolded(agent, false);
      else if (agent.children.length && agent.at + 1 < list.length && list[agent.at + 1].parent === agent) go(agent.at + 1);
      break;
    case "ArrowLeft":
      if (agent.children.length && !agent.folded && !isListFiltered) setFolded(agent, true);
      else if (agent.parent && agent.parent.at >= 0) activate(agent.parent);
      break;
    case "Enter": choose(agent); break;
    case " ": if (agent.children.length) setFolded(agent, !agent.folded); else choose(agent); break;
    case "/": search.focus(); search.select(); break;
    case "?": openHelp(); break;
    default:
      if (event.key.length !== 1) return;
      typeAhead(event.key);
  }
  event.preventDefault();
});

function searchChanged() {
  scroll.scrollTop = 0;
  waited.delete("list");
  need("list");
}
search.addEventListener("input", searchChanged);
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "Enter") {
    event.preventDefault();
    relist();
    activate(list.find((agent) => !agent.beside) || list[0]);
  } else if (event.key === "Escape") {
    event.preventDefault();
    if (search.value) { search.value = ""; searchChanged(); } else activate(active);
  }
});
filter.addEventListener("change", searchChanged);
$("unfold-all").addEventListener("click", () => { for (const agent of agents.values()) if (agent.children.length) agent.folded = false; need("list"); });
$("fold-all").addEventListener("click", () => { for (const agent of agents.values()) if (agent.children.length) agent.folded = true; scroll.scrollTop = 0; need("list"); });
scroll.addEventListener("scroll", () => { hideTip(); need("rows", "lanes"); }, {passive: true});

// -- the timeline: lanes on a canvas, beside the rows --------------------------------------------------

const timeline = $("timeline"), canvas = $("lanes"), pen = canvas.getContext("2d", {alpha: false});
/* Until the person zooms, a short run is seen whole: the window grows with it from 10 to 60 seconds. */
const sight = {start: 0, length: 60, mode: page.live ? "follow" : "whole", grows: true};
let palette = null;
let drawnArrows = [];
let cursor = null;             // {agent, index}: the span that the keyboard is on; -1 for the open one
let paneWidth = 0, paneHeight = 0;

/* Where the person has chosen few colours, the patterns tell the kinds apart. */
const forced = matchMedia("(forced-colors: active)");
const FORCED = {sheet: "Canvas", raised: "Canvas", chosen: "Canvas", "on-lane": "Canvas", line: "GrayText", link: "Highlight"};

function colours() {
  if (palette) return palette;
  const probe = make("span", {class: "hidden"});
  document.body.append(probe);
  probe.style.forcedColorAdjust = "none";
  const colour = (name) => {
    probe.style.color = forced.matches ? FORCED[name] || "CanvasText" : `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  palette = {
    ground: colour("sheet"), line: colour("line"), ink: colour("ink"), soft: colour("soft"), chosen: colour("chosen"),
    raised: colour("raised"), link: colour("link"), onLane: colour("on-lane"), lanes: KINDS.map((kind) => colour(`lane-${kind}`)),
    font: `11px ${getComputedStyle(document.body).fontFamily}`, patterns: [],
  };
  probe.remove();
  palette.patterns = KINDS.map((kind, at) => pattern(kind, palette.lanes[at]));
  drawLegend();
  return palette;
}

/* What tells one kind from another without colour. */
function pattern(kind, colour) {
  const tile = document.createElement("canvas");
  const scale = window.devicePixelRatio || 1;
  const size = 8;
  tile.width = tile.height = Math.round(size * scale);
  const ink = tile.getContext("2d");
  ink.scale(tile.width / size, tile.height / size);
  const hollow = kind === "waiting" || kind === "starting";
  ink.fillStyle = hollow ? palette.ground : colour;
  ink.fillRect(0, 0, size, size);
  ink.strokeStyle = ink.fillStyle = hollow ? colour : palette.onLane;
  ink.lineWidth = 1;
  ink.globalAlpha = hollow ? 0.9 : 0.55;
  ink.beginPath();
  switch (kind) {
    case "starting": ink.fillRect(1, 1, 1.5, 1.5); ink.fillRect(5, 5, 1.5, 1.5); break;
    case "waiting": ink.moveTo(0, 4); ink.lineTo(4, 4); ink.stroke(); break;
    case "acting": for (const at of [-4, 0, 4, 8]) { ink.moveTo(at, 8); ink.lineTo(at + 8, 0); } ink.stroke(); break;
    case "approval": for (const at of [-8, 0, 8]) { ink.moveTo(at, 8); ink.lineTo(at + 8, 0); ink.moveTo(at, 0); ink.lineTo(at + 8, 8); } ink.stroke(); break;
    case "retrying": ink.fillRect(0, 0, 3, 8); break;
    case "perceiving": ink.moveTo(0, 2.5); ink.lineTo(8, 2.5); ink.moveTo(0, 6.5); ink.lineTo(8, 6.5); ink.stroke(); break;
    case "running": ink.globalAlpha = 0.4; ink.fillRect(2, 2, 2, 2); ink.fillRect(6, 6, 2, 2); break;
    default: break; // reasoning is plain
  }
  const made = pen.createPattern(tile, "repeat");
  made.setTransform(new DOMMatrix().scale(size / tile.width));
  return made;
}

function drawLegend() {
  const legend = $("legend");
  legend.replaceChildren();
  for (const [at, kind] of KINDS.entries()) {
    const sample = make("canvas", {width: 48, height: 24, "aria-hidden": "true"});
    const ink = sample.getContext("2d");
    ink.scale(2, 2);
    box(ink, at, 0, 24, 0, 12, "");
    legend.append(make("li", {}, sample, KIND_WORDS[kind]));
  }
}

function place() {
  const time = Math.max(now(), 0.001);
  if (sight.mode === "follow" && sight.grows) sight.length = Math.min(60, Math.max(10, time / 0.94));
  const length = Math.max(sight.length, 0.002);
  if (sight.mode === "whole") { sight.start = 0; sight.length = Math.max(time * (run.ended ? 1.01 : 1.05), 0.05); }
  else if (sight.mode === "follow") { sight.length = length; sight.start = Math.max(0, time - length * 0.94); }
}

function box(ink, kind, x0, x1, y, height, label) {
  const {lanes, patterns, onLane, ink: text, ground} = palette;
  const hollow = kind === 0 || kind === 5;
  const width = x1 - x0;
  const h = hollow ? height - 4 : height;
  const top = hollow ? y + 2 : y;
  ink.fillStyle = width >= 5 ? patterns[kind] : lanes[kind];
  if (width < 5 && hollow) ink.globalAlpha = 0.55;
  ink.fillRect(x0, top, width, h);
  ink.globalAlpha = 1;
  if (width >= 4) {
    ink.strokeStyle = lanes[kind];
    ink.lineWidth = kind === 6 ? 2 : 1;
    ink.strokeRect(x0 + 0.5, top + 0.5, width - 1, h - 1);
  }
  if (!label || width < 34) return;
  const most = Math.floor((width - 10) / 6);
  const words = label.length > most ? `${label.slice(0, Math.max(1, most - 1))}…` : label;
  const long = Math.min(ink.measureText(words).width, width - 8);
  ink.fillStyle = hollow ? ground : lanes[kind];
  ink.fillRect(x0 + 3, top + 1.5, long + 4, h - 3);
  ink.fillStyle = hollow ? text : onLane;
  ink.fillText(words, x0 + 5, top + h / 2 + 0.5, width - 8);
}

function labelOf(kind, detail, blocked) {
  switch (KINDS[kind]) {
    case "waiting": return `for ${namesOf(blocked, 1)}`;
    case "acting": return line(detail || "acting", 60);
    case "approval": return `? ${line(detail || "approval", 60)}`;
    case "retrying": return `again: ${line(detail || "a model call", 60)}`;
    case "reasoning": return "reasoning";
    default: return KINDS[kind];
  }
}

/* Draw a lane. Spans thinner than a pixel are merged: all that begin within a pixel are one step, found by
   binary search, so a lane takes as many steps as it has pixels, however many spans it has. */
function drawLane(ink, agent, y, height, width, start, length, time) {
  const {starts, ends, kinds} = agent;
  const scale = width / length, stop = start + length;
  let mergedKind = -1, mergedFrom = 0, mergedTo = 0;
  const flush = () => {
    if (mergedKind < 0) return;
    ink.fillStyle = palette.lanes[mergedKind];
    const hollow = mergedKind === 0 || mergedKind === 5;
    if (hollow) ink.globalAlpha = 0.55;
    ink.fillRect(mergedFrom, y + 2, mergedTo - mergedFrom, height - 4);
    ink.globalAlpha = 1;
    mergedKind = -1;
  };
  let at = firstAbove(ends, start);
  while (at < starts.length && starts[at] < stop) {
    const x0 = (starts[at] - start) * scale, x1 = (ends[at] - start) * scale;
    if (x1 - x0 >= 1.5) {
      flush();
      box(ink, kinds[at], Math.max(x0, -4), Math.min(x1, width + 4), y, height, x1 - x0 < 34 ? "" : labelOf(kinds[at], agent.details[at], agent.blocked[at]));
      at++;
      continue;
    }
    const pixel = Math.floor(x0);
    let next = firstFrom(starts, start + (pixel + 1) / scale, at + 1);
    if (next - 1 > at && (ends[next - 1] - starts[next - 1]) * scale >= 1.5) next--;
    const kind = mostOf(agent, at, next);
    if (kind !== mergedKind || pixel > mergedTo) {
      flush();
      mergedKind = kind;
      mergedFrom = pixel;
    }
    mergedTo = pixel + 1;
    at = next;
  }
  flush();
  const {row} = agent;
  if (row.kind && row.since < stop && time > start) {
    const x0 = Math.max((row.since - start) * scale, -4), x1 = Math.min((time - start) * scale, width + 4);
    if (x1 > x0) box(ink, KINDS.indexOf(row.kind), x0, Math.max(x1, x0 + 1.5), y, height, labelOf(KINDS.indexOf(row.kind), row.detail, row.blocked_on));
  }
}

const sums = new Float64Array(KINDS.length);

/* The kind that takes most of the time of some spans; of many, a sample. */
function mostOf(agent, from, to) {
  if (to - from === 1) return agent.kinds[from];
  sums.fill(0);
  const step = Math.max(1, Math.floor((to - from) / 16));
  let best = agent.kinds[from];
  for (let at = from; at < to; at += step) {
    const kind = agent.kinds[at];
    sums[kind] += agent.ends[at] - agent.starts[at] + 1e-9;
    if (sums[kind] > sums[best]) best = kind;
  }
  return best;
}

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400];

function tick(seconds, step) {
  if (step < 1) return `${moment(seconds, step < 0.01 ? 3 : step < 0.1 ? 2 : 1)}`;
  return moment(seconds, 0);
}

function drawLanes() {
  if (!paneWidth || !paneHeight) return;
  const {font, ground, line: lineColour, ink, soft, raised, chosen: chosenColour, link} = colours();
  place();
  const scale = window.devicePixelRatio || 1;
  const width = paneWidth, height = paneHeight;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = font;
  pen.textBaseline = "middle";
  pen.fillStyle = ground;
  pen.fillRect(0, 0, width, height);
  const {start, length} = sight;
  const perSecond = width / length, time = now(), top = scroll.scrollTop;
  const step = STEPS.find((each) => each * perSecond >= 70) || 86400 * Math.ceil(70 / (86400 * perSecond));
  const ticks = [];
  for (let at = Math.ceil(start / step) * step; at <= start + length; at += step) ticks.push(at);
  pen.fillStyle = lineColour;
  for (const at of ticks) pen.fillRect(Math.round((at - start) * perSecond), headHeight, 1, height);
  const first = Math.max(0, Math.floor(top / rowHeight)), last = Math.min(list.length, Math.ceil((top + height) / rowHeight));
  for (let at = first; at < last; at++) {
    const agent = list[at], y = headHeight + at * rowHeight - top;
    if (agent === chosen) { pen.fillStyle = chosenColour; pen.fillRect(0, y, width, rowHeight); }
    pen.fillStyle = lineColour;
    pen.fillRect(0, y + rowHeight - 1, width, 1);
    drawLane(pen, agent, y + 4, rowHeight - 9, width, start, length, time);
    if (agent === active && document.activeElement === timeline) {
      pen.strokeStyle = link;
      pen.lineWidth = 1;
      pen.strokeRect(0.5, y + 0.5, width - 1, rowHeight - 2);
    }
  }
  drawnArrows = [];
  if ($("arrows").checked) drawArrows(first, last, start, length, perSecond, top);
  drawCursor(start, perSecond, top, time);
  if (!run.ended) {
    pen.fillStyle = link;
    pen.fillRect(Math.round((time - start) * perSecond), headHeight, 1, height);
  }
  pen.fillStyle = raised;
  pen.fillRect(0, 0, width, headHeight);
  pen.fillStyle = lineColour;
  pen.fillRect(0, headHeight - 1, width, 1);
  pen.fillStyle = soft;
  for (const at of ticks) {
    const x = (at - start) * perSecond;
    pen.fillRect(Math.round(x), headHeight - 6, 1, 6);
    if (x < width - 30) pen.fillText(tick(at, step), x + 4, headHeight / 2);
  }
  setAttribute($("fit"), "aria-pressed", sight.mode === "whole");
  setAttribute($("follow"), "aria-pressed", sight.mode === "follow");
}

function drawCursor(start, perSecond, top, time) {
  if (!cursor || cursor.agent.at < 0) return;
  const found = spanAt(cursor.agent, cursor.index, time);
  if (!found) return;
  const x0 = (found.start - start) * perSecond, x1 = (found.end - start) * perSecond;
  const y = headHeight + cursor.agent.at * rowHeight - top;
  pen.strokeStyle = palette.ink;
  pen.lineWidth = 2;
  pen.strokeRect(x0 - 1, y + 2, Math.max(x1 - x0, 2) + 2, rowHeight - 5);
}

function drawArrows(first, last, start, length, perSecond, top) {
  const seen = new Set();
  const until = firstAbove(arrowTimes, start + length);
  let left = 0;
  pen.lineWidth = 1.25;
  const arrowColours = {message: palette.soft, question: palette.ink, reply: palette.ink};
  const y = (agent) => headHeight + (agent.at + 0.5) * rowHeight - top;
  for (let at = firstFrom(arrowTimes, start); at < until; at++) {
    const arrow = arrows[at], {sender, heard} = arrow;
    if (!sender || !heard || sender.at < first || heard.at < first || sender.at >= last || heard.at >= last || sender === heard) continue;
    const x = Math.round((arrow.time - start) * perSecond) + 0.5;
    const key = (x * 4096 + (sender.at - first)) * 4096 + (heard.at - first);
    if (seen.has(key)) continue;
    if (drawnArrows.length >= MOST_DRAWN) { left++; continue; }
    seen.add(key);
    const from = y(sender), to = y(heard), way = Math.sign(to - from);
    pen.strokeStyle = pen.fillStyle = arrowColours[arrow.kind];
    pen.setLineDash(arrow.kind === "reply" ? [4, 3] : arrow.kind === "message" ? [1, 2] : []);
    pen.beginPath();
    pen.moveTo(x, from);
    pen.lineTo(x, to - way * 5);
    pen.stroke();
    pen.setLineDash([]);
    pen.beginPath();
    pen.moveTo(x, to);
    pen.lineTo(x - 3.5, to - way * 6);
    pen.lineTo(x + 3.5, to - way * 6);
    pen.fill();
    if (arrow.kind === "question") {
      pen.beginPath();
      pen.arc(x, from, 3, 0, 7);
      pen.fill();
    }
    drawnArrows.push([x, Math.min(from, to), Math.max(from, to), arrow]);
  }
  if (left) {
    pen.fillStyle = palette.ink;
    pen.fillText(`${number(left)} more messages: zoom in`, 8, paneHeight - 10);
  }
}

function spanAt(agent, index, time) {
  if (index === -1 || index >= agent.starts.length) {
    const {row} = agent;
    return row.kind ? {kind: row.kind, start: row.since, end: Math.max(time, row.since), detail: row.detail || "", blocked: row.blocked_on || null, isOpen: true} : null;
  }
  return {kind: KINDS[agent.kinds[index]], start: agent.starts[index], end: agent.ends[index], detail: agent.details[index], blocked: agent.blocked[index], isOpen: false};
}

function spanWords(agent, span, inPixel = 1) {
  const until = span.isOpen ? `since ${moment(span.start)}, ${duration(span.end - span.start)} so far` : `${moment(span.start, 2)} to ${moment(span.end, 2)}, ${duration(span.end - span.start)}`;
  const more = inPixel > 1 ? `\n${number(inPixel)} spans are here: zoom in` : "";
  return `${agent.name}: ${kindWords(span.kind, span.detail, span.blocked)}\n${until}${more}`;
}

function arrowWords(arrow) {
  const word = {message: "message", question: "question", reply: "reply"}[arrow.kind];
  return `${word} ${arrow.id} from ${nameOf(arrow.from)} to ${nameOf(arrow.to)}\nat ${moment(arrow.time, 2)}`;
}

// what is under the pointer

const tip = $("tip");

function hideTip() { tip.hidden = true; }

function hit(x, y) {
  for (const [ax, top, bottom, arrow] of drawnArrows) {
    if (Math.abs(ax - x) <= 3 && y >= top && y <= bottom) return {arrow};
  }
  const at = Math.floor((y - headHeight + scroll.scrollTop) / rowHeight);
  if (y < headHeight || at < 0 || at >= list.length) return null;
  const agent = list[at], perSecond = paneWidth / sight.length;
  const time = sight.start + x / perSecond, near = 2 / perSecond;
  let index = firstAbove(agent.ends, time);
  if (index < agent.starts.length && agent.starts[index] <= time) {
    return {agent, index, inPixel: firstFrom(agent.starts, time + 0.5 / perSecond) - firstAbove(agent.ends, time - 0.5 / perSecond)};
  }
  const {row} = agent;
  if (row.kind && row.since <= time && time <= now() + near) return {agent, index: -1, inPixel: 1};
  if (index > 0 && agent.ends[index - 1] >= time - near) return {agent, index: index - 1, inPixel: 1};
  if (index < agent.starts.length && agent.starts[index] <= time + near) return {agent, index, inPixel: 1};
  return {agent, index: null};
}

function showTip(x, y, text) {
  tip.hidden = false;
  setText(tip, text);
  const {width, height} = tip.getBoundingClientRect();
  const left = Math.max(4, Math.min(x + 14, innerWidth - width - 4));
  const top = y + 18 + height > innerHeight ? y - height - 10 : y + 18;
  tip.style.transform = `translate(${left}px, ${Math.max(4, top)}px)`;
}

let drag = null;

timeline.addEventListener("pointermove", (event) => {
  const area = timeline.getBoundingClientRect();
  if (drag) {
    const by = event.clientX - drag.x;
    if (Math.abs(by) > 3) drag.moved = true;
    if (drag.moved) { hideTip(); goFree(drag.start - by * sight.length / paneWidth, sight.length); }
    return;
  }
  const found = hit(event.clientX - area.left, event.clientY - area.top);
  if (found && found.arrow) showTip(event.clientX, event.clientY, arrowWords(found.arrow));
  else if (found && found.index !== null) showTip(event.clientX, event.clientY, spanWords(found.agent, spanAt(found.agent, found.index, now()), found.inPixel));
  else hideTip();
});
timeline.addEventListener("pointerleave", hideTip);
timeline.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  drag = {x: event.clientX, start: sight.start, moved: false};
  timeline.setPointerCapture(event.pointerId);
});
timeline.addEventListener("pointerup", (event) => {
  const moved = drag && drag.moved;
  drag = null;
  if (moved) return;
  const area = timeline.getBoundingClientRect();
  const found = hit(event.clientX - area.left, event.clientY - area.top);
  if (found && found.agent) {
    if (found.index !== null) cursor = {agent: found.agent, index: found.index};
    activate(found.agent, {focus: false});
    choose(found.agent);
  }
});
timeline.addEventListener("pointercancel", () => { drag = null; });
timeline.addEventListener("wheel", (event) => {
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    const area = timeline.getBoundingClientRect();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.01), (event.clientX - area.left) / paneWidth);
  } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    event.preventDefault();
    goFree(sight.start + (event.deltaX || event.deltaY) * sight.length / paneWidth, sight.length);
  } else {
    const before = scroll.scrollTop;
    scroll.scrollTop += event.deltaMode === 1 ? event.deltaY * rowHeight : event.deltaY;
    if (scroll.scrollTop !== before) event.preventDefault();
  }
}, {passive: false});

function goFree(start, length) {
  sight.mode = "free";
  sight.grows = false;
  const time = Math.max(now(), 0.05);
  sight.length = Math.max(0.002, Math.min(length, Math.max(time * 4, 1)));
  sight.start = Math.max(-sight.length * 0.5, Math.min(start, time - sight.length * 0.05));
  need("lanes");
}

function zoom(factor, at = 0.5) {
  place();
  if (sight.mode === "follow" && at === 0.5) {
    sight.grows = false;
    sight.length = Math.max(0.01, Math.min(sight.length * factor, Math.max(now() * 4, 1)));
    need("lanes");
    return;
  }
  const length = Math.max(0.002, sight.length * factor);
  goFree(sight.start + (sight.length - length) * at, length);
}

function setMode(mode) {
  if (mode === "follow" && sight.mode === "whole") sight.length = Math.min(sight.length, 60);
  sight.mode = mode;
  need("lanes");
}

$("zoom-in").addEventListener("click", () => zoom(1 / 1.6));
$("zoom-out").addEventListener("click", () => zoom(1.6));
$("fit").addEventListener("click", () => setMode("whole"));
$("follow").addEventListener("click", () => setMode(sight.mode === "follow" ? "free" : "follow"));
$("arrows").addEventListener("change", () => need("lanes"));

/* From span to span. */
function stepCursor(by) {
  if (!active) return;
  const agent = active, many = agent.starts.length, hasOpen = Boolean(agent.row.kind);
  const most = many + (hasOpen ? 1 : 0);
  if (!most) { announceSpan(`${agent.name}: nothing yet`); return; }
  let at;
  if (cursor && cursor.agent === agent) at = (cursor.index === -1 ? many : cursor.index) + by;
  else at = Math.max(0, Math.min(most - 1, firstAbove(agent.ends, sight.start + sight.length / 2)));
  at = Math.max(0, Math.min(most - 1, at));
  cursor = {agent, index: at >= many ? -1 : at};
  const span = spanAt(agent, cursor.index, now());
  if (span.end < sight.start || span.start > sight.start + sight.length) {
    goFree((span.start + span.end) / 2 - sight.length / 2, sight.length);
  }
  tellCursor();
  need("lanes");
}

function tellCursor() {
  const span = cursor && spanAt(cursor.agent, cursor.index, now());
  if (!span) return;
  const text = spanWords(cursor.agent, span);
  announceSpan(text.replace("\n", ", "));
  place();
  const area = timeline.getBoundingClientRect();
  const x = area.left + Math.max(0, Math.min(paneWidth, (span.start - sight.start) * paneWidth / sight.length));
  const y = area.top + headHeight + (cursor.agent.at + 0.6) * rowHeight - scroll.scrollTop;
  showTip(x, y, text);
}

function announceSpan(text) { setText($("announce-span"), text); }

timeline.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const go = (by) => {
    if (!list.length) return;
    const at = active && active.at >= 0 ? active.at : 0;
    activate(list[Math.max(0, Math.min(list.length - 1, at + by))], {focus: false});
    announceSpan(`${active.name}: ${doingOf(active)}`);
    hideTip();
  };
  switch (event.key) {
    case "ArrowLeft": if (event.shiftKey) goFree(sight.start - sight.length / 4, sight.length); else stepCursor(-1); break;
    case "ArrowRight": if (event.shiftKey) goFree(sight.start + sight.length / 4, sight.length); else stepCursor(1); break;
    case "ArrowDown": go(1); break;
    case "ArrowUp": go(-1); break;
    case "PageDown": go(10); break;
    case "PageUp": go(-10); break;
    case "Home": if (active) { cursor = {agent: active, index: 1}; stepCursor(-1); } break;
    case "End": if (active) { cursor = {agent: active, index: -1}; stepCursor(0); } break;
    case "+": case "=": zoom(1 / 1.6); break;
    case "-": case "_": zoom(1.6); break;
    case "0": setMode("whole"); break;
    case "f": setMode("follow"); break;
    case "m": $("arrows").checked = !$("arrows").checked; need("lanes"); break;
    case "Enter": if (active) choose(active); break;
    case "Escape": hideTip(); cursor = null; need("lanes"); break;
    case "/": search.focus(); search.select(); break;
    case "?": openHelp(); break;
    default: return;
  }
  event.preventDefault();
});
timeline.addEventListener("focus", () => need("lanes"));
timeline.addEventListener("blur", () => { hideTip(); need("lanes"); });

// the divider between table and timeline

const divider = $("divider");

function setDivider(percent) {
  const value = Math.round(Math.max(20, Math.min(80, percent)));
  divider.setAttribute("aria-valuenow", value);
  $("panes").style.setProperty("--table", `${value}%`);
  $("panes").style.setProperty("--names", `${value}%`);
  need("rows", "lanes");
}
divider.addEventListener("pointerdown", (event) => { divider.setPointerCapture(event.pointerId); });
divider.addEventListener("pointermove", (event) => {
  if (!divider.hasPointerCapture(event.pointerId)) return;
  const area = $("panes").getBoundingClientRect();
  setDivider(100 * (event.clientX - area.left) / area.width);
});
divider.addEventListener("keydown", (event) => {
  const value = Number(divider.getAttribute("aria-valuenow"));
  const to = {ArrowLeft: value - 5, ArrowRight: value + 5, Home: 20, End: 80}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  setDivider(to);
});

function setView(view) {
  $("board").dataset.view = view;
  $("view").value = view;
  need("rows", "lanes");
}
$("view").addEventListener("change", () => setView($("view").value));
const narrow = matchMedia("(max-width: 40rem)");
function fitView() {
  $("view").options[0].disabled = $("view").options[0].hidden = narrow.matches;
  if (narrow.matches && $("view").value === "both") setView("table");
  else if (!narrow.matches) setView("both");
}
narrow.addEventListener("change", fitView);

// -- the panels ----------------------------------------------------------------------------------------

const TABS = ["agent", "pool", "notes"];

function showTab(name) {
  for (const each of TABS) {
    setAttribute($(`tab-${each}`), "aria-selected", each === name);
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
    $(`panel-${each}`).hidden = each !== name;
  }
  waited.delete(name);
  need(name);
}
for (const [at, name] of TABS.entries()) {
  $(`tab-${name}`).addEventListener("click", () => showTab(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const other = TABS[(to + TABS.length) % TABS.length];
    showTab(other);
    $(`tab-${other}`).focus();
  });
}

function table(caption, columns) {
  const head = make("tr", {}, ...columns.map(([label, isNumber]) => make("th", {scope: "col", class: isNumber ? "number" : null, text: label})));
  const body = make("tbody");
  return {body, root: make("div", {class: "wide", tabindex: "0", role: "region", "aria-label": caption}, make("table", {}, make("caption", {text: caption}), make("thead", {}, head), body))};
}

function tableRow(cells, columns) {
  return make("tr", {}, ...cells.map((cell, at) => make("td", {class: columns[at][1] ? "number" : null, text: cell})));
}

function drawPool() {
  const panel = $("panel-pool"), {pool, dropped} = run;
  const parts = [];
  const key = JSON.stringify([pool, dropped, run.totals]);
  if (panel.dataset.key === key) return;
  panel.dataset.key = key;
  const hadFocus = panel.contains(document.activeElement);
  const budgets = budgetLines();
  if (budgets.length) {
    const columns = [["Budget"], ["limit", true], ["spent", true], ["left", true]];
    const {root, body} = table("Budget of the pool", columns);
    for (const {label, tell, limit, spent, left} of budgets) body.append(tableRow([label, tell(limit), tell(spent), tell(left)], columns));
    parts.push(root);
  }
  if (pool && pool.providers && pool.providers.length) {
    const columns = [["Provider"], ["in flight", true], ["waiting", true], ["refused", true], ["state"]];
    const {root, body} = table("Providers", columns);
    for (const each of pool.providers) {
      const state = [each.circuit && each.circuit !== "closed" ? `circuit ${line(String(each.circuit))}` : "", each.pause ? `pauses ${duration(each.pause)}` : ""].filter(Boolean).join(", ") || "ok";
      body.append(tableRow([line(each.name), number(each.in_flight || 0), number(each.waiting || 0), number(each.refused || 0), state], columns));
    }
    parts.push(root);
  }
  const facts = make("dl", {class: "facts"});
  const fact = (label, value) => { if (value !== undefined && value !== null) facts.append(make("dt", {text: label}), make("dd", {text: typeof value === "number" ? number(value) : value})); };
  if (pool) {
    fact("Slots", pool.slots);
    fact("Agents in a slot", pool.running);
    fact("Agents that lent theirs", pool.lent);
    fact("Agents that wait for one", pool.queued);
    fact("Agents to start", pool.to_start);
    fact("Agents that back off", pool.backing_off);
    fact("Agents that wait", pool.waiting);
    fact("Messages sent", pool.messages);
    fact("Messages in inboxes", pool.in_inboxes);
    fact("Dead letters", pool.dead_letters);
  }
  if (run.totals) {
    fact("Tokens", run.totals.tokens);
    fact("Cost", money(run.totals.cost || 0));
    fact("Agents spawned", run.totals.spawned);
    fact("Completed", run.totals.completed);
    fact("Failed", run.totals.failed);
    fact("Aborted", run.totals.aborted);
  }
  if (dropped && (dropped.spans || dropped.arrows || dropped.agents)) {
    fact("Not kept any more", [dropped.agents && plural(dropped.agents, "agent"), dropped.spans && plural(dropped.spans, "span"), dropped.arrows && plural(dropped.arrows, "message")].filter(Boolean).join(", "));
  }
  parts.push(facts);
  panel.replaceChildren(...parts);
  if (hadFocus) $("tab-pool").focus();
}

let notesDrawn = 0;
let notesSaid = 0;

function drawNotes() {
  const box = $("notes");
  if (notesDrawn > notesEver) { box.replaceChildren(); notesDrawn = 0; notesSaid = 0; }
  setText($("tab-notes"), notesEver ? `Notes (${number(notesEver)})` : "Notes");
  $("notes-none").hidden = notesEver > 0;
  box.hidden = notesEver === 0;
  if (notesEver > notesSaid && run.live && !run.ended && mayDraw("say-notes", 10_000)) {
    if (notesSaid || notesDrawn) say(`${plural(notesEver - notesSaid, "new note")}: ${line(notes[notes.length - 1][2], 160)}`);
    notesSaid = notesEver;
  }
  if ($("panel-notes").hidden) return;
  const fresh = notes.slice(-Math.min(notes.length, notesEver - notesDrawn));
  if (notesEver === notesDrawn) return;
  for (const [time, agent, text] of fresh) {
    const known = agent && agents.get(agent);
    box.prepend(make("li", {}, make("time", {text: moment(time)}), make("div", {}, longText(text), ...(known ? [make("button", {type: "button", class: "plain", text: `Show ${known.name}`, on: {click: () => { if (agents.has(agent)) goTo(agents.get(agent)); }}})] : []))));
  }
  while (box.children.length > MOST_NOTES) box.lastChild.remove();
  notesDrawn = notesEver;
}

let sayTimer = 0;
function say(text) {
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => setText($("announce"), text), 150);
}

// -- the agent in the panel -----------------------------------------------------------------------------

let panel = null;              // the elements for the agent that is shown
const SPAN_COLUMNS = [["From", true], ["Lasted", true], ["Doing"]];
const MESSAGE_COLUMNS = [["At", true], ["Kind"], ["From"], ["To"]];

class Panel {
  constructor(agent) {
    this.agent = agent;
    this.id = agent.id;
    this.facts = new Map();
    this.list = make("dl", {class: "facts"});
    this.title = make("h2", {tabindex: "-1", text: agent.name, dir: "auto"});
    this.abort = make("button", {type: "button", class: "small", text: "Abort…", on: {click: () => askAbort(this.agent)}});
    this.parent = make("button", {type: "button", class: "plain", on: {click: () => { const above = agents.get(this.agent.row.parent || 0); if (above) goTo(above); }}});
    this.live = make("div", {class: "live", dir: "auto"});
    this.liveBox = make("div", {}, make("h3", {text: "Last words"}), this.live);
    this.spans = table(`The latest ${LATEST} spans, newest first`, SPAN_COLUMNS);
    this.messages = table(`The latest ${LATEST} messages, newest first`, MESSAGE_COLUMNS);
    this.spansDrawn = 0;
    this.arrowsDrawn = 0;
    this.openRow = make("tr", {}, make("td", {class: "number"}), make("td", {class: "number"}), make("td"));
    this.spans.body.append(this.openRow);
    this.transcript = new Transcript(agent);
    const again = () => { waited.delete("agent"); need("agent"); };
    this.transcriptPart = make("details", {class: "part", open: true, on: {toggle: again}}, make("summary", {text: "Transcript"}), this.transcript.root);
    this.spansPart = make("details", {class: "part", on: {toggle: again}}, make("summary"), this.spans.root);
    this.messagesPart = make("details", {class: "part", on: {toggle: again}}, make("summary"), this.messages.root);
    $("agent").replaceChildren(
      make("div", {class: "agent-head"}, this.title, this.abort), this.list, this.liveBox,
      this.spansPart, this.messagesPart, this.transcriptPart,
    );
  }

  fact(label, value) {
    let pair = this.facts.get(label);
    if (!pair) {
      pair = [make("dt", {text: label}), make("dd")];
      this.facts.set(label, pair);
      this.list.append(...pair);
    }
    const isEmpty = value === "" || value === null || value === undefined;
    pair[0].hidden = pair[1].hidden = isEmpty;
    if (typeof value === "object" && value) { if (pair[1].firstChild !== value) pair[1].replaceChildren(value); }
    else if (!isEmpty) setText(pair[1], String(value));
  }

  draw() {
    const agent = this.agent, row = agent.row, time = now();
    setText(this.title, agent.name);
    const isLive = run.live && !run.ended && !agent.hasEnded;
    this.abort.hidden = !isLive;
    this.fact("Number", `#${agent.id}`);
    this.fact("State", agent.hasEnded ? row.state : agent.state);
    this.fact("Doing", agent.hasEnded ? "" : `${doingOf(agent)}, for ${duration(time - (row.since || 0))}`);
    this.fact("Because", row.reason ? line(row.reason, 1000) : "");
    if (row.parent && agents.has(row.parent)) { setText(this.parent, nameOf(row.parent)); this.fact("Spawned by", this.parent); }
    else this.fact("Spawned by", row.parent ? `#${row.parent}` : "the program");
    this.fact("Spawned at", moment(row.spawned || 0));
    this.fact("Waited to start", row.started === undefined ? "" : duration(row.started - row.spawned));
    this.fact("Ended at", agent.hasEnded ? moment(row.ended) : "");
    this.fact("Lasted", duration((agent.hasEnded ? row.ended : time) - (row.started === undefined ? row.spawned : row.started)));
    this.fact("Model", row.model ? line(row.model) : "");
    this.fact("Turn", row.turn ? number(row.turn) : "");
    this.fact("Model calls", row.calls ? number(row.calls) : "");
    this.fact("Tool calls", row.tools ? number(row.tools) : "");
    this.fact("Tokens", row.tokens ? number(row.tokens) : "");
    this.fact("Cost", row.cost ? money(row.cost) : "");
    this.fact("Messages", row.sent || row.heard ? `${number(row.sent || 0)} sent, ${number(row.heard || 0)} heard` : "");
    this.fact("Dead letters", row.dead ? number(row.dead) : "");
    this.fact("Restarts", row.restarts ? number(row.restarts) : "");
    this.fact("Agents below", agent.below ? number(agent.below) : "");
    this.liveBox.hidden = !row.words;
    setAttribute(this.live, "data-on", isLive && row.kind === "reasoning");
    if (this.words !== row.words) {
      this.words = row.words;
      this.live.replaceChildren();
      appendEscaped(this.live, row.words || "", UNSEEN_TEXT);
    }
    setText(this.spansPart.firstChild, `Timeline as a table (${number(agent.starts.length + (row.kind ? 1 : 0))})`);
    setText(this.messagesPart.firstChild, `Messages (${number((row.sent || 0) + (row.heard || 0))})`);
    if (this.spansPart.open) this.drawSpans(time);
    if (this.messagesPart.open) this.drawMessages();
    if (this.transcriptPart.open) this.transcript.look();
  }

  drawSpans(time) {
    const {agent, openRow} = this;
    const open = spanAt(agent, -1, time);
    openRow.hidden = !open;
    if (open) [moment(open.start, 2), `${duration(open.end - open.start)}…`, kindWords(open.kind, open.detail, open.blocked)].forEach((text, at) => setText(openRow.children[at], text));
    const fresh = Math.min(agent.spansEver - this.spansDrawn, LATEST, agent.starts.length);
    for (let at = agent.starts.length - fresh; at < agent.starts.length; at++) {
      const span = spanAt(agent, at, time);
      openRow.after(tableRow([moment(span.start, 2), duration(span.end - span.start), kindWords(span.kind, span.detail, span.blocked)], SPAN_COLUMNS));
    }
    this.spansDrawn = agent.spansEver;
    while (this.spans.body.children.length > LATEST + 1) this.spans.body.lastChild.remove();
  }

  drawMessages() {
    const {agent} = this;
    const fresh = Math.min(agent.arrowsEver - this.arrowsDrawn, LATEST, agent.arrows.length);
    for (const arrow of agent.arrows.slice(agent.arrows.length - fresh)) {
      this.messages.body.prepend(tableRow([moment(arrow.time, 2), arrow.kind, nameOf(arrow.from), nameOf(arrow.to)], MESSAGE_COLUMNS));
    }
    this.arrowsDrawn = agent.arrowsEver;
    while (this.messages.body.children.length > LATEST) this.messages.body.lastChild.remove();
  }
}

function drawAgent() {
  if (chosen && agents.get(chosen.id) !== chosen) {
    chosen = agents.get(chosen.id) || null;    // it has gone, or all was told anew
    if (panel && chosen) { panel.agent = chosen; panel.spansDrawn = panel.arrowsDrawn = 0; }
  }
  $("agent-none").hidden = Boolean(chosen);
  $("agent").hidden = !chosen;
  if (!chosen) { panel = null; return; }
  if (!panel || panel.id !== chosen.id) panel = new Panel(chosen);
  if (!$("panel-agent").hidden) panel.draw();
}

class Transcript {
  constructor(agent) {
    this.id = agent.id;
    this.status = make("p", {class: "quiet", role: "status"});
    this.earlier = make("button", {type: "button", class: "plain", hidden: true, on: {click: () => this.showEarlier()}});
    this.list = make("ol", {class: "messages"});
    this.root = make("div", {}, this.status, this.earlier, this.list);
    this.messages = [];
    this.from = 0;             // the first message that is shown
    this.drawn = 0;            // up to here they are shown
    this.texts = [];           // as JSON, to see what is new
    this.signature = "";
    this.busy = false;
    this.nextAt = 0;
  }

  /* Get it where there may be more than what is shown. */
  look() {
    const agent = agents.get(this.id);
    if (!agent || this.busy) return;
    const {row} = agent;
    const signature = [row.turn, row.calls, row.tools, row.phase, row.ended, row.restarts, row.heard].join();
    if (signature === this.signature) return;
    if (!run.live) {
      this.signature = signature;
      const element = document.querySelector(`script.transcript[data-agent="${this.id}"]`);
      this.take(element ? JSON.parse(element.textContent) : []);
      return;
    }
    if (performance.now() < this.nextAt) { setTimeout(() => need("agent"), 300); return; }
    this.fetch(signature);
  }

  async fetch(signature) {
    this.busy = true;
    if (!this.messages.length) setText(this.status, "Fetching the transcript…");
    try {
      const answer = await fetch(`/agents/${this.id}/transcript`, {cache: "no-store", signal: AbortSignal.timeout(60_000)});
      if (answer.status === 404) this.take(this.messages, "The server has no transcript of this agent.");
      else if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
      else this.take((await answer.json()).messages || []);
      this.signature = signature;
      this.nextAt = performance.now() + 700;
    } catch (error) {
      const seen = this.messages.length ? " What is below may not be all." : "";
      setText(this.status, run.ended ? `The run is over, and its server has gone.${seen}` : `The transcript could not be fetched.${seen}`);
      this.nextAt = performance.now() + 3000;
      if (run.ended) this.signature = signature;
      else setTimeout(() => need("agent"), 3100);
    } finally {
      this.busy = false;
    }
  }

  take(messages, problem = "") {
    this.messages = messages;
    const texts = messages.map((message) => JSON.stringify(message));
    let same = 0;
    while (same < texts.length && same < this.texts.length && texts[same] === this.texts[same]) same++;
    if (same < this.drawn) {   // it was written anew: a compaction, or a restart
      while (this.list.children.length > Math.max(0, same - this.from)) this.list.lastChild.remove();
      this.drawn = Math.max(same, this.from);
      if (same <= this.from) { this.list.replaceChildren(); this.from = this.drawn = 0; }
    }
    this.texts = texts;
    if (!this.list.children.length) this.from = this.drawn = Math.max(0, messages.length - MESSAGES_AT_ONCE);
    for (; this.drawn < messages.length; this.drawn++) this.list.append(messageElement(messages[this.drawn]));
    this.tell(problem);
  }

  tell(problem = "") {
    setText(this.status, problem || (this.messages.length ? plural(this.messages.length, "message") : "No messages."));
    this.earlier.hidden = this.from === 0;
    setText(this.earlier, `Show earlier messages (${number(this.from)})`);
  }

  showEarlier() {
    const to = this.from;
    this.from = Math.max(0, to - MESSAGES_AT_ONCE);
    this.list.prepend(...this.messages.slice(this.from, to).map(messageElement));
    this.tell();
    if (this.earlier.hidden) this.list.firstChild.querySelector(".who").focus();
  }
}

function messageElement(message) {
  const role = line(String(message.role || ""), 40);
  const name = message.name ? ` ${line(String(message.name), 100)}` : "";
  const kind = message.kind && message.kind !== message.role && message.kind !== "text" ? ` (${line(String(message.kind), 60)})` : "";
  const item = make("li", {class: "message", "data-role": role, "data-error": message.error ? "true" : null},
    make("div", {class: "who", tabindex: "-1", text: `${role}${name}${kind}${message.error ? ": error" : ""}`}));
  if (message.reasoning) {
    const thought = longText(String(message.reasoning));
    item.append(make("details", {class: "thought"}, make("summary", {text: "Thought before"}), thought));
  }
  if (message.text) item.append(longText(String(message.text), {code: role === "tool"}));
  for (const call of message.calls || []) {
    item.append(make("div", {class: "who", text: `calls ${line(String(call.name), 100)}`}), longText(typeof call.input === "string" ? call.input : JSON.stringify(call.input, null, 2) || "", {code: true}));
    if (call.problem) item.append(make("p", {class: "problem", text: line(String(call.problem), 500)}));
  }
  return item;
}

// -- dialogs ----------------------------------------------------------------------------------------------

const dialog = $("ask");
let answerOf = null;

function ask({title, text, yes, reason = false, send}) {
  setText($("ask-title"), title);
  setText($("ask-text"), text);
  setText($("ask-yes"), yes);
  $("ask-label").hidden = !reason;
  $("ask-reason").value = "";
  $("ask-problem").hidden = true;
  $("ask-yes").disabled = false;
  answerOf = send;
  const before = document.activeElement;
  dialog.addEventListener("close", () => { if (before && before.isConnected && !before.hidden) before.focus(); else activate(active); }, {once: true});
  dialog.showModal();
  (reason ? $("ask-reason") : $("ask-no")).focus();
}

$("ask-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("ask-yes").disabled = true;
  $("ask-problem").hidden = true;
  const problem = await answerOf($("ask-reason").value.trim());
  $("ask-yes").disabled = false;
  if (problem) {
    $("ask-problem").hidden = false;
    setText($("ask-problem"), problem);
  } else dialog.close();
});
$("ask-no").addEventListener("click", () => dialog.close());

$("drain").addEventListener("click", () => ask({
  title: "Drain the pool?", yes: "Drain the pool",
  text: page.leaves
    ? "The run stops now: also the agents at work are stopped. What is unfinished can be resumed."
    : "No more agents are started. Those that run go on to their end.",
  send: async () => {
    const problem = await post("/drain", {});
    if (!problem) say(page.leaves ? "The run is stopping." : "The pool is draining.");
    return problem;
  },
}));

function askAbort(agent) {
  ask({
    title: `Abort ${agent.name}?`, yes: "Abort the agent", reason: true,
    text: agent.liveBelow ? `The ${plural(agent.liveBelow, "agent")} below it will be aborted with it.` : "It ends at its next step; what it did so far is kept.",
    send: async (reason) => {
      const problem = await post(`/agents/${agent.id}/abort`, {reason});
      if (!problem) say(`${agent.name} is being aborted.`);
      return problem;
    },
  });
}

const HELP = [
  ["In the table of agents", [
    ["↑ ↓", "to the agent above or below"], ["→ ←", "unfold, or to the first child; fold, or to the one above"],
    ["Home End", "to the first or the last agent"], ["Page Up, Page Down", "a page up or down"],
    ["Enter", "show the agent in the panel"], ["Space", "fold or unfold"], ["letters", "to the next agent whose name begins so"],
    ["/", "search by name; Escape clears the search"],
  ]],
  ["In the timeline", [
    ["← →", "from span to span of the agent"], ["↑ ↓", "from agent to agent"], ["Shift ← →", "earlier or later"],
    ["+ −", "zoom in or out; also Ctrl and the wheel"], ["0", "the whole run"], ["f", "follow the present"],
    ["m", "messages on or off"], ["Enter", "show the agent in the panel"], ["Escape", "hide what is told about a span"],
  ]],
  ["Anywhere", [["Tab", "to the next part: approvals, agents, timeline, panel"], ["Escape", "close a question such as this"]]],
];
for (const [title, keys] of HELP) {
  $("help-body").append(make("h3", {text: title}), make("dl", {class: "key-list"}, ...keys.flatMap(([key, text]) => [make("dt", {}, make("kbd", {text: key})), make("dd", {text})])));
}
function openHelp() {
  const before = document.activeElement;
  $("help").addEventListener("close", () => { if (before && before.isConnected) before.focus(); }, {once: true});
  $("help").showModal();
}
$("keys").addEventListener("click", openHelp);
$("help-close").addEventListener("click", () => $("help").close());

// -- approvals ------------------------------------------------------------------------------------------------

const cards = new Map();       // by the hashes of the calls
let settledAt = 0;             // since when nothing has moved in the region
$("go-approvals").addEventListener("click", () => {
  const first = $("approvals-list").querySelector(".card h3");
  ($("approvals")).scrollIntoView({block: "start"});
  (first || $("approvals-heading")).focus();
});

function unsettle() {
  settledAt = performance.now() + ARMING_MS;
  for (const card of cards.values()) card.arm(false);
  setTimeout(() => { if (performance.now() >= settledAt - 1) for (const card of cards.values()) card.arm(true); }, ARMING_MS + 5);
}

/* Whatever moves the buttons makes them wait: a click that was meant for another place is not taken. */
new ResizeObserver(() => { if (cards.size) unsettle(); }).observe(document.querySelector(".head"));

function drawApprovals() {
  const open = new Map(run.approvals.map((each) => [each.hash, each]));
  let moved = false, focusLost = false, news = null;
  for (const [hash, card] of cards) {
    if (open.has(hash)) continue;
    focusLost = focusLost || card.root.contains(document.activeElement);
    if (!card.isDecided) tellApprovals(`${card.title}: it was decided elsewhere, or is not needed any more.`);
    card.root.remove();
    cards.delete(hash);
    moved = true;
  }
  for (const [hash, data] of open) {
    if (cards.has(hash)) continue;
    const card = new Card(data);
    cards.set(hash, card);
    $("approvals-list").append(card.root);
    moved = true;
    news = card;
  }
  $("approvals-none").hidden = cards.size > 0;
  setText($("approvals-heading"), cards.size ? `Approvals (${cards.size})` : "Approvals");
  $("approvals").hidden = !run.live;
  if (moved) unsettle();
  if (news) say(`${plural(cards.size, "approval is", "approvals are")} open. The latest: ${news.title}`);
  if (focusLost) focusAfterDecision();
  waited.delete("head");
  need("head");
}

/* Not onto a button: who presses Enter twice approves nothing by it. */
function focusAfterDecision() {
  const next = $("approvals-list").querySelector(".card h3");
  (next || $("approvals-heading")).focus({preventScroll: Boolean(next) === false});
}

function tellApprovals(text, isBad = false) {
  const said = $("approvals-said");
  said.hidden = false;
  setAttribute(said, "data-tone", isBad ? "bad" : "");
  setText(said, text);
}

let cardsEver = 0;

class Card {
  constructor(data) {
    this.data = data;
    this.isDecided = false;
    const who = line(data.name || nameOf(data.agent), 100), tool = line(data.tool || "", 100);
    const {question} = data;
    this.title = question ? `${line(question.server || "a server", 100)} asks ${who}` : `${who} wants to call ${tool}`;
    const id = `card-${++cardsEver}`;
    this.problem = make("p", {class: "problem", role: "alert", hidden: true});
    this.folded = make("p", {class: "quiet", hidden: true});
    this.hidden = new Map();
    const heading = make("h3", {id, tabindex: "-1", text: this.title});
    this.root = make("li", {class: "card", role: "group", "aria-labelledby": id}, heading);
    const agent = make("button", {type: "button", class: "plain", text: `Show ${who} (#${data.agent})`, on: {click: () => { const found = agents.get(data.agent); if (found) goTo(found); }}});
    this.root.append(make("p", {class: "rule", text: question ? `In a call of ${tool}.` : data.rule ? `Rule: ${line(data.rule, 300)}` : "No rule allows it."}));
    if (question) this.root.append(...this.questionParts(question));
    else this.root.append(this.argumentParts(data.arguments || {}));
    this.approve = make("button", {type: "submit", class: "main", text: question ? (this.form ? "Send the answer" : "Accept") : "Approve"});
    this.deny = make("button", {type: "button", class: "danger", text: question ? "Decline" : "Deny"});
    this.reason = make("input", {type: "text", maxlength: "2000", autocomplete: "off", "aria-label": `Reason for denying (${this.title})`, placeholder: "Reason for denying (may be empty)"});
    const answer = make("form", {class: "answer", novalidate: true});
    if (this.form) answer.append(this.form.root);
    answer.append(this.folded, this.reason, make("div", {class: "buttons"}, this.approve, this.deny), this.problem, agent);
    answer.addEventListener("submit", (event) => { event.preventDefault(); if (this.mayClick(this.approve)) this.accept(); });
    this.deny.addEventListener("click", () => { if (this.mayClick(this.deny)) this.send({approve: false, reason: this.reason.value.trim()}, "denied"); });
    // A key that is held down, or Enter in a field, decides nothing.
    answer.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      if (event.repeat || event.target.matches("input, select")) event.preventDefault();
    });
    this.root.append(answer);
  }

  mayClick(button) {
    return button.getAttribute("aria-disabled") !== "true";
  }

  arm(isReady) {
    for (const button of [this.approve, this.deny]) setAttribute(button, "aria-disabled", isReady && !this.isBusy ? null : "true");
  }

  argumentParts(given) {
    const names = Object.keys(given);
    if (!names.length) return make("p", {class: "quiet", text: "Without arguments."});
    const parts = make("dl", {class: "arguments"});
    for (const name of names) {
      const value = given[name], isText = typeof value === "string";
      const text = isText ? value : JSON.stringify(value, null, 2);
      const size = isText ? `text, ${plural(text.length, "character")}` : Array.isArray(value) ? "list" : value === null ? "null" : typeof value;
      const label = make("dt");
      appendEscaped(label, name, UNSEEN_EXACT);
      label.append(` (${size})`);
      parts.append(label, make("dd", {}, longText(text, {exact: true, onFold: (left) => { this.hidden.set(name, left); this.tellFolded(); }})));
    }
    return parts;
  }

  tellFolded() {
    let left = 0;
    for (const each of this.hidden.values()) left += each;
    this.folded.hidden = left === 0;
    setText(this.folded, `${plural(left, "character")} of the arguments ${left === 1 ? "is" : "are"} not shown yet.`);
  }

  questionParts(question) {
    const parts = [make("div", {class: "question"}, longText(String(question.message || "")))];
    if (question.url) {
      let host = "";
      try { host = new URL(question.url).host; } catch { /* told as it is */ }
      parts.push(make("p", {text: host ? `It asks you to open a page of ${host}:` : "It asks you to open:"}), longText(String(question.url), {exact: true}));
    }
    if (question.schema) this.form = new Form(question.schema, `form-${cardsEver}`);
    return parts;
  }

  accept() {
    if (!this.form) { this.send({approve: true}, this.data.question ? "accepted" : "approved"); return; }
    const content = this.form.content();
    if (content) this.send({approve: true, content}, "answered");
  }

  async send(decision, word) {
    this.problem.hidden = true;
    this.isBusy = true;
    this.arm(false);
    const problem = await post(`/approvals/${encodeURIComponent(this.data.hash)}`, decision);
    this.isBusy = false;
    if (problem) {
      this.problem.hidden = false;
      setText(this.problem, problem);
      this.arm(performance.now() >= settledAt);
      return;
    }
    this.isDecided = true;
    tellApprovals(`${this.title}: ${word}.`);
    run.approvals = run.approvals.filter((each) => each.hash !== this.data.hash);
    need("approvals");
  }
}

/* A form for a flat JSON schema. */
class Form {
  constructor(schema, prefix) {
    this.fields = [];
    this.root = make("div", {class: "answer"});
    const required = new Set(schema.required || []);
    for (const [at, [name, rule]] of Object.entries(schema.properties || {}).entries()) {
      const field = new Field(name, rule && typeof rule === "object" ? rule : {}, required.has(name), `${prefix}-${at}`);
      this.fields.push(field);
      this.root.append(field.root);
    }
  }

  /* What was filled in; null, with the focus where something is missing, if it does not fit. */
  content() {
    const content = {};
    let wrong = null;
    for (const field of this.fields) {
      const problem = field.check();
      if (problem) wrong = wrong || field;
      else {
        const value = field.value();
        if (value !== undefined) Object.defineProperty(content, field.name, {value, enumerable: true});
      }
    }
    if (!wrong) return content;
    wrong.focus();
    return null;
  }
}

const INPUT_TYPES = {email: "email", uri: "url", date: "date"};

class Field {
  constructor(name, rule, isRequired, id) {
    this.name = name;
    this.rule = rule;
    this.isRequired = isRequired;
    this.problem = make("p", {class: "problem", id: `${id}-problem`, hidden: true});
    const label = `${line(rule.title || name, 200)}${isRequired ? " (required)" : ""}`;
    const hint = rule.description ? make("p", {class: "hint", id: `${id}-hint`, text: line(rule.description, 1000)}) : null;
    const described = `${hint ? `${id}-hint ` : ""}${id}-problem`;
    const shared = {id, "aria-describedby": described, "aria-required": isRequired ? "true" : null};
    this.choices = choicesOf(rule);
    if (rule.type === "array" && this.choices) {
      this.boxes = this.choices.map(([value, text]) => { const box = make("input", {type: "checkbox"}); box.checked = Array.isArray(rule.default) && rule.default.includes(value); return [box, value, text]; });
      this.root = make("div", {class: "field", role: "group", "aria-labelledby": `${id}-name`, "aria-describedby": described}, make("span", {class: "name", id: `${id}-name`, text: label}), ...this.boxes.map(([box, , text]) => make("label", {class: "check"}, box, text)));
      this.input = this.boxes.length ? this.boxes[0][0] : null;
    } else {
      if (this.choices || rule.type === "boolean") {
        const choices = this.choices || [[true, "yes"], [false, "no"]];
        this.values = [undefined, ...choices.map(([value]) => value)];
        this.input = make("select", shared, make("option", {value: "0", text: "—"}), ...choices.map(([, text], at) => make("option", {value: String(at + 1), text})));
        const preset = this.values.indexOf(rule.default);
        this.input.value = String(preset > 0 ? preset : 0);
      } else {
        const isNumber = rule.type === "number" || rule.type === "integer";
        this.input = make("input", {...shared, type: isNumber ? "text" : INPUT_TYPES[rule.format] || "text", inputmode: isNumber ? (rule.type === "integer" ? "numeric" : "decimal") : null, autocomplete: "off"});
        if (rule.default !== undefined && rule.default !== null) this.input.value = String(rule.default);
      }
      this.root = make("div", {class: "field"}, make("label", {for: id, text: label}), this.input);
    }
    if (hint) this.root.append(hint);
    this.root.append(this.problem);
  }

  focus() { if (this.input) this.input.focus(); }

  value() {
    if (this.boxes) {
      const picked = this.boxes.filter(([box]) => box.checked).map(([, value]) => value);
      return picked.length || this.isRequired ? picked : undefined;
    }
    if (this.values) return this.values[Number(this.input.value)];
    const text = this.input.value;
    if (this.rule.type === "number" || this.rule.type === "integer") return text.trim() === "" ? undefined : Number(text);
    return text === "" && !(this.isRequired && this.rule.minLength === 0) ? undefined : text;
  }

  check() {
    const problem = this.wrong();
    this.problem.hidden = !problem;
    setText(this.problem, problem);
    if (this.input) setAttribute(this.input, "aria-invalid", problem ? "true" : null);
    return problem;
  }

  wrong() {
    const {rule} = this, value = this.value();
    if (value === undefined) return this.isRequired ? "This has to be filled in." : "";
    if (this.boxes) {
      if (value.length < (rule.minItems || 0)) return `Choose at least ${rule.minItems}.`;
      if (rule.maxItems !== undefined && value.length > rule.maxItems) return `Choose at most ${rule.maxItems}.`;
      return "";
    }
    if (typeof value === "number" && !this.values) {
      if (!Number.isFinite(value)) return "This has to be a number.";
      if (rule.type === "integer" && !Number.isSafeInteger(value)) return "This has to be a whole number.";
      if (rule.minimum !== undefined && value < rule.minimum) return `At least ${rule.minimum}.`;
      if (rule.maximum !== undefined && value > rule.maximum) return `At most ${rule.maximum}.`;
    } else if (typeof value === "string" && !this.values) {
      const length = [...value].length;
      if (rule.minLength !== undefined && length < rule.minLength) return `At least ${plural(rule.minLength, "character")}.`;
      if (rule.maxLength !== undefined && length > rule.maxLength) return `At most ${plural(rule.maxLength, "character")}.`;
      if (!this.input.checkValidity()) return this.input.validationMessage;
    }
    return "";
  }
}

/* The values and words to choose from, or null. */
function choicesOf(rule) {
  const from = rule.type === "array" ? rule.items || {} : rule;
  if (Array.isArray(from.enum)) return from.enum.map((value, at) => [value, line(String((from.enumNames || [])[at] ?? value), 200)]);
  const titled = from.oneOf || from.anyOf;
  if (Array.isArray(titled) && titled.every((each) => each && "const" in each)) return titled.map((each) => [each.const, line(String(each.title ?? each.const), 200)]);
  return null;
}

// -- on paper -----------------------------------------------------------------------------------------------

const MOST_ON_PAPER = 500;

addEventListener("beforeprint", () => {
  const before = theme;
  document.documentElement.dataset.theme = "light";
  palette = null;
  colours();
  const head = make("tr", {}, ...["Agent", "Doing", "Turn", "Tokens", "Cost", "Time", "Timeline"].map((text) => make("th", {scope: "col", text})));
  const body = make("tbody");
  const time = now();
  for (const agent of list.slice(0, MOST_ON_PAPER)) {
    const picture = make("canvas", {width: 400, height: 26});
    const ink = picture.getContext("2d");
    ink.scale(2, 2);
    ink.font = palette.font;
    ink.textBaseline = "middle";
    drawLane(ink, agent, 0, 13, 200, 0, Math.max(time, 0.05), time);
    const lasted = (agent.hasEnded ? agent.row.ended : time) - (agent.row.started === undefined ? agent.row.spawned : agent.row.started);
    body.append(make("tr", {}, make("td", {text: `${"  ".repeat(agent.level - 1)}${agent.name}`}), make("td", {text: doingOf(agent)}), make("td", {class: "number", text: agent.row.turn || ""}),
      make("td", {class: "number", text: agent.row.tokens ? number(agent.row.tokens) : ""}), make("td", {class: "number", text: agent.row.cost ? money(agent.row.cost) : ""}), make("td", {class: "number", text: duration(lasted)}), make("td", {}, picture)));
  }
  const paper = $("paper");
  paper.replaceChildren(make("table", {}, make("caption", {text: `Agents${list.length > MOST_ON_PAPER ? `: the first ${MOST_ON_PAPER} of ${number(list.length)}` : ""}, from 0:00 to ${moment(time, 0)}`}), make("thead", {}, head), body));
  if (notes.length) {
    paper.append(make("h2", {text: "Notes"}), make("ol", {class: "notes"}, ...notes.slice(-200).map(([at, , text]) => make("li", {}, make("time", {text: moment(at)}), make("span", {text: line(text, 500)})))));
  }
  theme = before;
});
addEventListener("afterprint", () => { $("paper").replaceChildren(); applyTheme(); });

// -- the begin ------------------------------------------------------------------------------------------------

addEventListener("error", (event) => trouble(`The page made an error: ${event.message}`));
addEventListener("unhandledrejection", (event) => trouble(`The page made an error: ${event.reason && event.reason.message || event.reason}`));

const sizes = new ResizeObserver(measure);
for (const element of [scroll, timeline, $("columns")]) sizes.observe(element);
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)", "(prefers-contrast: more)"]) {
  matchMedia(query).addEventListener("change", () => { palette = null; need("lanes"); });
}
(function watchScale() {
  matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener("change", () => { palette = null; need("rows", "lanes"); watchScale(); }, {once: true});
})();

/* What moves by itself: the present, and the seconds. */
const still = matchMedia("(prefers-reduced-motion: reduce)");
let secondsAt = 0;
(function beat() {
  const isOn = run.live && !run.ended && run.connected;
  const perSecond = paneWidth / Math.max(sight.length, 0.01);
  const pause = still.matches ? 1000 : Math.max(100, Math.min(1000, 1000 / Math.max(perSecond, 0.5)));
  if (!document.hidden && isOn && sight.mode !== "free") need("lanes");
  if (performance.now() - secondsAt >= 990) {
    secondsAt = performance.now();
    if (!document.hidden && (isOn || retryAt)) need("head");
    if (!document.hidden && isOn) need("rows", "agent");
  }
  setTimeout(beat, isOn ? pause : 1000);
})();

fitView();
applyTheme();
measure();
$("follow").hidden = $("skip-approvals").hidden = !run.live;
if (run.live) {
  tellConnection("connecting…");
  connect();
} else {
  run.ended = true;
  sight.mode = "whole";
  for (const element of document.querySelectorAll("script.changes")) {
    enqueue(function* () {
      const changes = JSON.parse(element.textContent);
      element.remove();
      yield;
      yield* takeChanges(changes);
    });
  }
}
need("list", "rows", "head", "approvals", "lanes");
})();
