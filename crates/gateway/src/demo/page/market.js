// A live market over one connection, which fanfare.js keeps up.
//
//   symbols.json ──► rows ◄── messages ── fanfare.js
//                     │
//                     └─ dirty ──► one repaint a frame
//
// After a lost connection every topic resumes from its last offset. What did not come back is counted, never hidden.

import { Fanfare } from "../fanfare.js";
import { by, grouped, still, write } from "./dom.js";

const TREND_MS = 60_000;
const TREND_STEP_MS = 500;
const FLASH_MS = 600;
const RATE_WINDOW_MS = 2000;
const RATE_STEP_MS = 250;
const OPEN_TIMEOUT_MS = 10_000;
const SYMBOLS_RETRY_MS = 3_000;

// --- Market: what is known of each topic -------------------------------------------------------------------------

const market = new Map();
const totals = { messages: 0, lost: 0, unknown: 0, conflated: 0 };

function newEntry(topic) {
  return {
    topic,
    symbol: topic.replace(/^ticker\./, ""),
    epoch: undefined,
    offset: undefined, // of the last message seen, or lost
    bid: "",
    ask: "",
    last: "",
    open: undefined,
    price: undefined, // `last` as a number
    trend: [], // [step, price] of the last minute, one a step
    moved: 0, // since the last repaint: 1 up, -1 down
    row: undefined,
  };
}

function message({ topic, epoch, offset, data }) {
  totals.messages += 1;
  const entry = market.get(topic);
  if (entry.epoch === epoch && entry.offset !== undefined) totals.conflated += offset - entry.offset - 1;
  entry.epoch = epoch;
  entry.offset = offset;
  if (data !== null && typeof data === "object") quote(entry, data);
  dirty.add(entry);
  repaintSoon();
}

function gap({ topic, from, to }) {
  totals.lost += to - from + 1;
  market.get(topic).offset = to;
  repaintSoon();
}

// What could not be resumed. How much is missing can be told only within one epoch.
function reset({ topic, epoch, offset, previous }) {
  if (epoch === previous.epoch) totals.lost += Math.max(0, offset - 1 - previous.offset);
  else totals.unknown += 1;
  market.get(topic).offset = undefined;
  repaintSoon();
}

// Anybody may post to these topics: a field counts if it is a short string or a number, and shows as it is.
function quote(entry, data) {
  const field = (value, old) => {
    const text = typeof value === "number" ? String(value) : value;
    return typeof text === "string" && text.length <= 16 ? text : old;
  };
  entry.bid = field(data.bid, entry.bid);
  entry.ask = field(data.ask, entry.ask);
  const last = field(data.last, entry.last);
  const price = Number(last);
  if (last === "" || !Number.isFinite(price)) return;
  if (entry.price !== undefined && price !== entry.price) entry.moved = price > entry.price ? 1 : -1;
  entry.last = last;
  entry.price = price;
  entry.open ??= price;
  extend(entry.trend, price);
}

function stepNow() {
  return Math.floor(performance.now() / TREND_STEP_MS);
}

function extend(trend, price) {
  const step = stepNow();
  if (trend.at(-1)?.[0] === step) trend.at(-1)[1] = price;
  else trend.push([step, price]);
  // One older than the window stays: the price that its left edge begins with.
  while (trend.length > 1 && trend[1][0] <= step - TREND_MS / TREND_STEP_MS) trend.shift();
}

// --- Painting: at most once a frame, and only the rows that changed -----------------------------------------------

const dirty = new Set();
const firstStep = stepNow();
let repaintAsked = false;

function repaintSoon() {
  if (repaintAsked) return;
  repaintAsked = true;
  requestAnimationFrame(repaint);
}

// Trends move on although nothing arrives.
setInterval(() => {
  for (const entry of market.values()) dirty.add(entry);
  repaintSoon();
}, 1000);

function repaint() {
  repaintAsked = false;
  for (const entry of dirty) paint(entry);
  dirty.clear();
  write(by("total"), grouped.format(totals.messages));
  paintGaps();
}

function paint(entry) {
  const { row } = entry;
  write(row.bid, entry.bid);
  write(row.ask, entry.ask);
  write(row.last, entry.last);
  write(row.offset, entry.offset === undefined ? "" : grouped.format(entry.offset));

  if (entry.price !== undefined) {
    const percent = entry.open ? (entry.price / entry.open - 1) * 100 : 0;
    const shown = Math.abs(percent).toFixed(2);
    const side = shown === "0.00" ? "" : percent > 0 ? "up" : "down";
    write(row.change, side === "" ? "0.00%" : `${side === "up" ? "+" : "−"}${shown}%`);
    if (row.tr.className !== side) row.tr.className = side;
    row.line.setAttribute("points", points(entry.trend));
  }

  if (entry.moved !== 0 && !still.matches && !row.tr.hidden) {
    row.flash?.cancel();
    const colour = entry.moved > 0 ? "var(--flash-up)" : "var(--flash-down)";
    row.flash = row.tr.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], {
      duration: FLASH_MS,
      easing: "ease-out",
    });
  }
  entry.moved = 0;
}

// The box is 100 by 20 and shows the last minute, or as much of it as there is. A price holds until the next one.
function points(trend) {
  const now = stepNow();
  const span = Math.min(TREND_MS / TREND_STEP_MS, Math.max(10, now - firstStep));
  const prices = trend.map(([, price]) => price);
  const low = Math.min(...prices);
  const range = Math.max(...prices) - low;
  const x = (step) => (Math.max(0, 1 - (now - step) / span) * 100).toFixed(1);
  const y = (price) => (range === 0 ? 10 : 19 - ((price - low) / range) * 18).toFixed(1);
  const line = [];
  trend.forEach(([step, price], index) => {
    if (index > 0 && step - trend[index - 1][0] > 2) line.push(`${x(step - 1)},${y(trend[index - 1][1])}`);
    line.push(`${x(step)},${y(price)}`);
  });
  line.push(`100,${y(prices.at(-1))}`);
  return line.join(" ");
}

function paintGaps() {
  const lost = totals.lost + totals.unknown;
  write(by("gaps"), grouped.format(lost));
  const notes = [];
  if (totals.lost > 0) notes.push(totals.lost === 1 ? "1 message lost" : `${grouped.format(totals.lost)} messages lost`);
  if (totals.unknown > 0) notes.push(totals.unknown === 1 ? "1 topic restarted" : `${totals.unknown} topics restarted`);
  if (totals.conflated > 0) notes.push(`${grouped.format(totals.conflated)} conflated`);
  write(by("gaps-note"), notes.join(", ") || "none lost");
  by("gaps-figure").classList.toggle("lost", lost > 0);
}

function newRow() {
  const tr = document.createElement("tr");
  tr.setAttribute("role", "row");
  const row = { tr };
  for (const name of ["symbol", "trend", "bid", "ask", "last", "change", "offset"]) {
    const td = document.createElement("td");
    td.className = name;
    td.setAttribute("role", "cell");
    row[name] = tr.appendChild(td);
  }
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  row.line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  row.trend.append(svg);
  return row;
}

function showMarket(topics) {
  const rows = by("rows");
  for (const topic of topics) {
    if (market.has(topic)) continue;
    const entry = newEntry(topic);
    entry.row = newRow();
    entry.row.symbol.textContent = entry.symbol;
    rows.append(entry.row.tr);
    market.set(topic, entry);
  }
  write(by("count"), grouped.format(market.size));
  filter();
}

function filter() {
  const wanted = by("filter").value.trim().toLowerCase();
  let shown = 0;
  for (const entry of market.values()) {
    const fits = entry.symbol.toLowerCase().includes(wanted);
    entry.row.tr.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  by("empty").hidden = shown > 0 || market.size === 0;
}

by("filter").addEventListener("input", filter);

// --- Rate: messages of the last two seconds -----------------------------------------------------------------------

const steps = [];

setInterval(() => {
  // Nothing comes while nothing is open: the two seconds before say nothing about now.
  if (fanfare?.connection.state !== "open") steps.length = 0;
  steps.push({ at: performance.now(), messages: totals.messages });
  const newest = steps.at(-1);
  while (steps.length > 2 && newest.at - steps[0].at > RATE_WINDOW_MS) steps.shift();
  const seconds = (newest.at - steps[0].at) / 1000;
  const rate = seconds > 0 ? (newest.messages - steps[0].messages) / seconds : 0;
  write(by("rate"), grouped.format(Math.round(rate)));
}, RATE_STEP_MS);

// --- Connection ---------------------------------------------------------------------------------------------------

let fanfare;
let retryTimer;

/** Shows the market; `status(state, text)` hears how that goes. Returns what connects anew. */
export async function startMarket(status) {
  const say = (state, text) => {
    status(state, text);
    document.querySelector(".market").classList.toggle("stale", state !== "live");
  };
  say("waiting", "Connecting");
  clearTimeout(retryTimer);
  let topics;
  try {
    const response = await fetch("/demo/symbols.json", { signal: AbortSignal.timeout(OPEN_TIMEOUT_MS) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    topics = await response.json();
  } catch {
    say("waiting", "Disconnected, trying again");
    retryTimer = setTimeout(() => startMarket(status), Math.random() * SYMBOLS_RETRY_MS);
    return;
  }
  showMarket(topics);
  const refused = new Map();
  fanfare = new Fanfare();
  fanfare.on("connection", (connection) => {
    if (connection.state === "connecting") refused.clear();
    say(...words(connection));
  });
  fanfare.on("refused", ({ topic, error }) => {
    refused.set(topic, error);
    say("stopped", `${refused.size} of ${topics.length} symbols refused: ${error.message}`);
  });
  fanfare.on("gap", gap);
  fanfare.on("reset", reset);
  for (const topic of topics) fanfare.subscribe(topic, message);
}

export function reconnectMarket() {
  fanfare?.reconnect();
}

/** A connection as the page's status. */
function words({ state, transport, reason, code, retryMs }) {
  if (state === "open") return ["live", transport === "events" ? "Live over server-sent events" : "Live"];
  if (state === "connecting") return ["waiting", totals.messages === 0 ? "Connecting" : "Reconnecting"];
  if (state === "closed") return ["stopped", `Closed by the server: ${reason || code}`];
  const seconds = Math.ceil(retryMs / 1000);
  const when = seconds > 1 ? `trying again in ${seconds} s` : "trying again";
  return ["waiting", reason ? `Disconnected (${reason}), ${when}` : `Disconnected, ${when}`];
}
