"use strict";

// A live market over one WebSocket.
//
//   symbols.json ──► rows ◄── messages ── /ws (fanfare.v1.json)
//                     │
//                     └─ dirty ──► one repaint a frame
//
// After a lost connection every topic resumes from its last offset. What did not come back is counted, never hidden.

const TREND_MS = 60_000;
const TREND_STEP_MS = 500;
const FLASH_MS = 600;
const RATE_WINDOW_MS = 2000;
const RATE_STEP_MS = 250;
const OPEN_TIMEOUT_MS = 10_000;
const QUIET_PING_MS = 15_000;
const PONG_TIMEOUT_MS = 10_000;
const SETTLED_MS = 5_000;
const RETRY_BASE_MS = 500;
const RETRY_MAX_MS = 20_000;

const webSocketOrigin = location.origin.replace(/^http/, "ws");
const by = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const grouped = new Intl.NumberFormat("en");

// --- Market: what is known of each topic -------------------------------------------------------------------------

const market = new Map();
const totals = { messages: 0, lost: 0, unknown: 0, conflated: 0 };

function newEntry(topic) {
  return {
    topic,
    symbol: topic.replace(/^ticker\./, ""),
    epoch: undefined,
    offset: undefined, // of the last message seen
    conflated: false, // offsets may jump: the server keeps only the newest
    announced: 0, // the end of the last gap the server told of
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

function acknowledge(ack) {
  const entry = market.get(ack.topic);
  if (!entry || ack.error) return ack.error;
  entry.conflated = ack.policy === "conflate";
  if (entry.offset !== undefined && (ack.epoch !== entry.epoch || ack.recovered === false)) {
    // Resumed, but not from where we were. How much is missing can be told only within one epoch.
    if (ack.epoch !== entry.epoch) totals.unknown += 1;
    else if (!entry.conflated) totals.lost += Math.max(0, ack.offset - (ack.replay ?? 0) - entry.offset);
    entry.offset = undefined;
  }
  entry.epoch = ack.epoch;
}

function gap(frame) {
  const entry = market.get(frame.topic);
  totals.lost += frame.to - frame.from + 1;
  if (!entry) return;
  if (frame.epoch && frame.epoch !== entry.epoch) {
    entry.epoch = frame.epoch;
    entry.offset = undefined;
  }
  entry.announced = frame.to;
}

function message({ topic, offset, data }) {
  totals.messages += 1;
  const entry = market.get(topic);
  if (!entry) return;
  if (entry.offset !== undefined && offset <= entry.offset) return; // a repeat around a resume
  if (entry.offset !== undefined) {
    const missing = offset - Math.max(entry.offset, Math.min(entry.announced, offset - 1)) - 1;
    if (entry.conflated) totals.conflated += missing;
    else totals.lost += missing;
  }
  entry.offset = offset;
  if (data !== null && typeof data === "object") quote(entry, data);
  dirty.add(entry);
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

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
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

// --- Rate: messages of the last two seconds -----------------------------------------------------------------------

const steps = [];

setInterval(() => {
  // Nothing comes while nothing is open: the two seconds before say nothing about now.
  if (by("status").dataset.state !== "live") steps.length = 0;
  steps.push({ at: performance.now(), messages: totals.messages });
  const newest = steps.at(-1);
  while (steps.length > 2 && newest.at - steps[0].at > RATE_WINDOW_MS) steps.shift();
  const seconds = (newest.at - steps[0].at) / 1000;
  const rate = seconds > 0 ? (newest.messages - steps[0].messages) / seconds : 0;
  write(by("rate"), grouped.format(Math.round(rate)));
}, RATE_STEP_MS);

// --- Connection ---------------------------------------------------------------------------------------------------

let socket;
let attempts = 0; // connections in a row that did not last
let retryTimer;
let commandId = 0;

function status(state, text) {
  by("status").dataset.state = state;
  write(by("status-text"), text);
  by("reconnect").hidden = state === "live" || (state === "waiting" && retryTimer === undefined);
  document.querySelector(".market").classList.toggle("stale", state !== "live");
}

async function start() {
  clearTimeout(retryTimer);
  retryTimer = undefined;
  const old = socket;
  socket = undefined;
  old?.close();
  status("waiting", market.size === 0 ? "Connecting" : "Reconnecting");
  if (market.size === 0) {
    try {
      const response = await fetch("/demo/symbols.json", { signal: AbortSignal.timeout(OPEN_TIMEOUT_MS) });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      showMarket(await response.json());
    } catch {
      retry(backOff());
      return;
    }
  }
  open();
}

function open() {
  const opened = new WebSocket(`${webSocketOrigin}/ws`, "fanfare.v1.json");
  socket = opened;
  let advised; // from a bye: { code, reason, retry_ms }
  let heard = performance.now();
  let pinged;
  let settled;
  let over = false;

  const end = (code, reason) => {
    if (over) return;
    over = true;
    clearTimeout(openTimer);
    clearInterval(watch);
    clearTimeout(settled);
    opened.close();
    if (opened === socket) ended(code, reason, advised);
  };
  const openTimer = setTimeout(() => end(1006, ""), OPEN_TIMEOUT_MS);
  // Browsers do not show a WebSocket's own pings. Timers are late in a hidden tab, so only an unanswered ping counts.
  const watch = setInterval(() => {
    const now = performance.now();
    if (pinged === undefined && now - heard > QUIET_PING_MS && opened.readyState === WebSocket.OPEN) {
      pinged = now;
      command("ping");
    } else if (pinged !== undefined && now - pinged > PONG_TIMEOUT_MS) {
      end(1006, "no answer");
    }
  }, 5_000);

  opened.onopen = () => {
    clearTimeout(openTimer);
    settled = setTimeout(() => { attempts = 0; }, SETTLED_MS);
    const topics = Array.from(market.values(), ({ topic, epoch, offset }) =>
      offset === undefined ? topic : { topic, epoch, offset });
    command("subscribe", { topics });
  };
  opened.onmessage = ({ data }) => {
    heard = performance.now();
    pinged = undefined;
    const frame = JSON.parse(data);
    switch (frame.type) {
      case undefined: message(frame); break;
      case "subscribed": subscribed(frame.topics); break;
      case "gap": gap(frame); repaintSoon(); break;
      case "bye": advised = frame; break;
      default: // welcome, pong, and what later versions say
    }
  };
  opened.onclose = ({ code, reason }) => end(code, reason);
}

function command(type, body) {
  commandId += 1;
  socket.send(JSON.stringify({ type, id: commandId, ...body }));
}

function subscribed(topics) {
  const refused = topics.map(acknowledge).filter(Boolean);
  if (refused.length === 0) status("live", "Live");
  else status("stopped", `${refused.length} of ${topics.length} symbols refused: ${refused[0].message}`);
  repaintSoon();
}

// What the server says with its close code: 4500 to 4999 and the protocol's own errors will not get better.
function ended(code, reason, advised) {
  const why = advised?.reason || reason;
  if ((code >= 4500 && code <= 4999) || [1002, 1003, 1007, 1009].includes(code)) {
    status("stopped", `Closed by the server: ${why || code}`);
  } else if (advised?.retry_ms !== undefined) {
    retry(advised.retry_ms, why);
  } else if (code >= 4200 && code <= 4299 && attempts === 0) {
    attempts += 1;
    retry(Math.random() * RETRY_BASE_MS, why);
  } else {
    retry(backOff(), why);
  }
}

// Full jitter: anywhere between at once and a bound that doubles.
function backOff() {
  const bound = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** attempts);
  attempts += 1;
  return Math.random() * bound;
}

function retry(delay, why) {
  retryTimer = setTimeout(start, delay);
  const seconds = Math.ceil(delay / 1000);
  const when = seconds > 1 ? `trying again in ${seconds} s` : "trying again";
  status("waiting", why ? `Disconnected (${why}), ${when}` : `Disconnected, ${when}`);
}

// --- Page ---------------------------------------------------------------------------------------------------------

function showSnippets() {
  write(by("curl"), `curl -X POST \\
  ${location.origin}/topics/ticker.BTC-USD \\
  -H 'content-type: application/json' \\
  -d '{"symbol":"BTC-USD","last":"70000.10",
       "bid":"70000.00","ask":"70000.20"}'`);
  write(by("python"), `from websockets.sync.client import connect

url = "${webSocketOrigin}/topics/ticker.BTC-USD"
with connect(url) as websocket:
    for message in websocket:
        print(message)`);
}

async function copy(button) {
  const text = by(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    // Only secure origins have a clipboard: the reader presses the keys.
    getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => copy(button));
}
by("filter").addEventListener("input", filter);
by("reconnect").addEventListener("click", start);
addEventListener("online", () => { if (retryTimer !== undefined) start(); });

showSnippets();
start();
