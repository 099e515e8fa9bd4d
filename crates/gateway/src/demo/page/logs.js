// A log tail over server-sent events: the browser's own EventSource, which comes back by itself and says where it was.
//
//   EventSource ──► waiting ──► one repaint a frame ──► lines (at most LINES_MAX) ──► those that the filter lets through
//
// A reader who scrolls up is left alone: new lines are added below, and the view stays where it is.

import { by, grouped, write } from "./dom.js";

const PATTERN = "logs.*";

const LINES_MAX = 500;
const TEXT_MAX = 2_000;
const RATE_WINDOW_MS = 5_000;
const RATE_STEP_MS = 500;
const RETRY_MIN_MS = 1_000;
const RETRY_SPREAD_MS = 3_000;
const CLOCKS_DIFFER_MS = 86_400_000;
const AT_END_PX = 24;
const LEVELS = ["debug", "info", "warn", "error"];

const kept = []; // by time
const places = new Map(); // by topic: { epoch, offset } of the newest line
const totals = { lines: 0, lost: 0 };
let waiting = [];
let paused = false;
let following = true; // the newest line is in view, and stays there
let unseen = 0; // lines below the view, or held back
let repaintAsked = false;

const box = () => by("lines");

// --- Streams ------------------------------------------------------------------------------------------------------

let tell = () => {};
let stream;

/** Begins to follow the log; `status(state, text)` hears how that goes. */
export function followLogs(status) {
  tell = status;
  tell("waiting", "Connecting");
  stream = new Stream(`/events?topic=${encodeURIComponent(PATTERN)}`);
}

export function reconnectLogs() {
  if (!stream.open) stream.start();
}

class Stream {
  open = false;
  #url;
  #source;
  #id = "";
  #epochs = new Map();
  #retry;

  constructor(url) {
    this.#url = url;
    this.start();
  }

  start() {
    clearTimeout(this.#retry);
    this.#source?.close();
    const from = this.#id ? `&last_event_id=${encodeURIComponent(this.#id)}` : "&from=earliest";
    const source = this.#source = new EventSource(this.#url + from);
    source.onopen = () => {
      this.open = true;
      tell("live", "Live");
    };
    source.onerror = () => {
      this.open = false;
      tell("waiting", "Disconnected, trying again");
      // A browser gives up on an answer that is no stream, such as a proxy's 502.
      if (source.readyState === EventSource.CLOSED) {
        this.#retry = setTimeout(() => this.start(), RETRY_MIN_MS + Math.random() * RETRY_SPREAD_MS);
      }
    };
    source.onmessage = (event) => this.#message(event);
    source.addEventListener("gap", ({ data }) => this.#gap(JSON.parse(data)));
    source.addEventListener("subscribed", ({ data }) => {
      for (const { topic, epoch } of JSON.parse(data).topics) if (epoch) this.#epochs.set(topic, epoch);
    });
    source.addEventListener("topic", ({ data }) => {
      const { topic, epoch } = JSON.parse(data);
      this.#epochs.set(topic, epoch);
    });
  }

  #message({ data, lastEventId }) {
    this.#id = lastEventId || this.#id;
    const message = JSON.parse(data);
    this.#add(message.topic, this.#epochs.get(message.topic), message.offset, message.data);
  }

  // A stream that comes back begins a little before where it was: repeats are dropped.
  #add(topic, epoch, offset, data) {
    const place = places.get(topic);
    if (place && place.epoch === epoch && offset <= place.offset) return;
    places.set(topic, { epoch, offset });
    totals.lines += 1;
    add(line(topic, data));
  }

  #gap({ topic, epoch, from, to }) {
    const lost = to - from + 1;
    totals.lost += lost;
    places.set(topic, { epoch, offset: to });
    add(line(topic, { level: "warn", text: `${grouped.format(lost)} ${lost === 1 ? "line" : "lines"} lost here` }));
  }
}

// Anybody may post to these topics: what is no line of the demo's log shows as it is.
function line(topic, data) {
  const now = Date.now();
  const fields = data !== null && typeof data === "object" ? data : { text: data };
  const { time = now, level, host, text = JSON.stringify(data) } = fields;
  return {
    time: Number.isFinite(time) && Math.abs(time - now) < CLOCKS_DIFFER_MS ? time : now,
    level: LEVELS.includes(level) ? level : "info",
    host: String(host ?? topic.replace(/^logs\./, "")).slice(0, 40),
    text: String(text).slice(0, TEXT_MAX),
  };
}

function add(line) {
  waiting.push(line);
  // Nobody paints in a hidden page.
  if (waiting.length > LINES_MAX) waiting.shift();
  if (repaintAsked) return;
  repaintAsked = true;
  requestAnimationFrame(repaint);
}

// --- Painting: at most once a frame -------------------------------------------------------------------------------

const wanted = () => by("lines-filter").value.trim().toLowerCase();

function repaint() {
  repaintAsked = false;
  showTotals();
  if (paused) return showNewest(); // they wait
  const coming = waiting.sort((one, other) => one.time - other.time);
  waiting = [];
  if (coming.length === 0) return;
  // Topics come one after the other when they are replayed: their lines are put between those that are there.
  const inOrder = kept.length === 0 || coming[0].time >= kept.at(-1).time;
  kept.push(...coming);
  if (!inOrder) kept.sort((one, other) => one.time - other.time);
  const gone = kept.splice(0, kept.length - LINES_MAX);
  if (inOrder) extend(coming, gone);
  else rebuild();
  if (!following) unseen += coming.filter((line) => line.row && !line.row.hidden).length;
  showNewest();
  showTotals();
}

function extend(coming, gone) {
  const words = wanted();
  let removed = 0;
  for (const { row } of gone) {
    if (!row) continue;
    removed += following ? 0 : row.offsetHeight;
    row.remove();
  }
  const rows = document.createDocumentFragment();
  for (const line of coming) {
    if (!gone.includes(line)) rows.append(rowOf(line, words));
  }
  box().append(rows);
  // What is read stays where it is, although something above it went.
  if (following) toEnd();
  else if (removed > 0) box().scrollTop -= removed;
}

function rebuild() {
  const words = wanted();
  box().replaceChildren(...kept.map((line) => rowOf(line, words)));
  if (following) toEnd();
}

function rowOf(line, words) {
  if (line.row) return line.row;
  const row = document.createElement("div");
  row.className = `line ${line.level}`;
  const time = document.createElement("time");
  const date = new Date(line.time);
  const digits = (number, length) => String(number).padStart(length, "0");
  time.textContent = `${digits(date.getHours(), 2)}:${digits(date.getMinutes(), 2)}:${digits(date.getSeconds(), 2)}`;
  const fraction = document.createElement("small");
  fraction.textContent = `.${digits(date.getMilliseconds(), 3)}`;
  time.append(fraction);
  row.append(time);
  for (const name of ["level", "host", "text"]) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = line[name];
    row.append(part);
  }
  line.row = row;
  row.hidden = !fits(line, words);
  return row;
}

function fits({ level, host, text }, words) {
  return words === "" || `${level} ${host} ${text}`.toLowerCase().includes(words);
}

function filter() {
  const words = wanted();
  for (const line of kept) if (line.row) line.row.hidden = !fits(line, words);
  if (following) toEnd();
  showNewest();
}

function toEnd() {
  box().scrollTop = box().scrollHeight;
  following = true;
  unseen = 0;
}

function showNewest() {
  const button = by("lines-newest");
  const held = paused ? waiting.length : unseen;
  button.hidden = !paused && following;
  const count = held >= LINES_MAX ? `${LINES_MAX}+` : held;
  write(button, held === 0 ? "↓ Newest" : `↓ ${count} new ${held === 1 ? "line" : "lines"}`);
  const empty = kept.length > 0 && kept.every(({ row }) => row?.hidden);
  by("lines-empty").hidden = !empty;
  by("lines-none").hidden = kept.length > 0;
}

function showTotals() {
  write(by("lines-total"), grouped.format(totals.lines));
  write(by("lines-lost"), grouped.format(totals.lost));
  write(by("lines-lost-note"), totals.lost === 0 ? "none lost" : "slow, or away too long");
  by("lines-lost-figure").classList.toggle("lost", totals.lost > 0);
  const errors = kept.filter(({ level }) => level === "error").length;
  write(by("lines-errors"), grouped.format(errors));
  write(by("lines-errors-note"), `of ${grouped.format(kept.length)} kept`);
}

function pause(value) {
  paused = value;
  write(by("lines-pause"), paused ? "Resume" : "Pause");
  by("lines-pause").setAttribute("aria-pressed", String(paused));
  repaint();
}

by("lines-pause").addEventListener("click", () => pause(!paused));
by("lines-newest").addEventListener("click", () => {
  if (paused) pause(false);
  toEnd();
  showNewest();
});
by("lines-filter").addEventListener("input", filter);
by("lines").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = box();
  following = scrollHeight - scrollTop - clientHeight < AT_END_PX;
  if (following) unseen = 0;
  showNewest();
}, { passive: true });
// Lines wrap anew when the width changes.
new ResizeObserver(() => { if (following) toEnd(); }).observe(box());

// --- Rate: lines of the last seconds ------------------------------------------------------------------------------

const steps = [];
let began; // the replay of what was before is not counted

setInterval(() => {
  if (by("status").dataset.state !== "live") steps.length = 0;
  began ??= totals.lines > 0 ? performance.now() : undefined;
  if (began === undefined || performance.now() - began < 2 * RATE_STEP_MS) return;
  steps.push({ at: performance.now(), lines: totals.lines });
  const newest = steps.at(-1);
  while (steps.length > 2 && newest.at - steps[0].at > RATE_WINDOW_MS) steps.shift();
  const seconds = (newest.at - steps[0].at) / 1000;
  const rate = seconds > 0 ? (newest.lines - steps[0].lines) / seconds : 0;
  write(by("lines-rate"), rate.toFixed(1));
}, RATE_STEP_MS);
