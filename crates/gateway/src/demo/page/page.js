// The page around its two views: tabs, the status at the top, and things to copy.

import { by, write } from "./dom.js";
import { followLogs, reconnectLogs } from "./logs.js";
import { reconnectMarket, startMarket } from "./market.js";

const COPIED_MS = 1500;

// --- Status: of the view that shows -------------------------------------------------------------------------------

const views = {
  market: { title: "live market", state: "waiting", text: "Connecting", reconnect: reconnectMarket },
  logs: { title: "log tail", state: "waiting", text: "Connecting", reconnect: reconnectLogs },
};
let shown = "market";

function status(view, state, text) {
  Object.assign(views[view], { state, text });
  if (view === shown) showStatus();
}

function showStatus() {
  const { state, text } = views[shown];
  by("status").dataset.state = state;
  write(by("status-text"), text);
  by("reconnect").hidden = state !== "stopped" && !text.startsWith("Disconnected");
}

// --- Tabs ---------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];
let following = false;

function show(view) {
  shown = view;
  for (const tab of tabs) {
    const selected = tab.id === `tab-${view}`;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    by(tab.getAttribute("aria-controls")).hidden = !selected;
  }
  document.title = `Fanfare · ${views[view].title}`;
  showStatus();
  // The log is asked for when somebody first looks at it.
  if (view === "logs" && !following) {
    following = true;
    followLogs((state, text) => status("logs", state, text));
  }
}

function showHash() {
  show(location.hash === "#logs" ? "logs" : "market");
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    const view = tab.id.replace("tab-", "");
    history.replaceState(null, "", view === "market" ? location.pathname : `#${view}`);
    show(view);
  });
  tab.addEventListener("keydown", ({ key }) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[key];
    if (to === undefined) return;
    const next = tabs.at(to % tabs.length);
    next.focus();
    next.click();
  });
}
addEventListener("hashchange", showHash);

// --- To copy ------------------------------------------------------------------------------------------------------

function showSnippets() {
  write(by("curl"), `curl -X POST \\
  ${location.origin}/topics/ticker.BTC-USD \\
  -H 'content-type: application/json' \\
  -d '{"symbol":"BTC-USD","last":"70000.10",
       "bid":"70000.00","ask":"70000.20"}'`);
  write(by("module"), `import { Fanfare } from
  "${location.origin}/fanfare.js";

new Fanfare().subscribe("ticker.BTC-USD",
  ({ offset, data }) => console.log(offset, data));`);
  write(by("python"), `from websockets.sync.client import connect

url = "${location.origin.replace(/^http/, "ws")}/topics/ticker.BTC-USD"
with connect(url) as websocket:
    for message in websocket:
        print(message)`);
  write(by("line"), `curl -X POST ${location.origin}/topics/logs.web \\
  -H 'content-type: application/json' \\
  -d '{"level":"error","host":"me","text":"hello"}'`);
  write(by("tail"), `curl -N -H 'accept: text/event-stream' \\
  '${location.origin}/topics/logs.web?from=earliest'`);
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
  setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => copy(button));
}
by("reconnect").addEventListener("click", () => views[shown].reconnect());

showSnippets();
showHash();
startMarket((state, text) => status("market", state, text));
