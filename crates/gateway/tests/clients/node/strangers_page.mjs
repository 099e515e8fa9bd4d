// A page of another site in Chromium, and what it gets to see of a gateway that it was not made for: it opens WebSockets and
// streams, reads and posts, as pages do it and as attackers do it. The configuration says something else of it in each act,
// and is reloaded in between: page and gateway stay the same.

import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";

import { withBrowser } from "./browser.mjs";
import { expect, metric, publish, until, url } from "./client.mjs";
import { origin } from "./pages_host.mjs";

const key = "a-key-that-the-page-has";
// The laxest come first: a browser that still has an answer of before is to hear that it is not for this page any more.
const acts = {
  "nothing is said": "",
  "a key is wanted": `
    [[api_keys]]
    name = "page"
    sha256 = "${createHash("sha256").update(key).digest("hex")}"
    publish = [">"]
    [anonymous]
    subscribe = [">"]`,
  "origins are others'": 'origins = ["http://127.0.0.1", "http://else.test"]',
  "origins have the page's": `origins = ["http://else.test", "${origin}"]`,
};

// What the page sees in each act. Behind it stands what the gateway counts: `-` a refused origin, `+` a published message.
const expected = {
  "a WebSocket": ["kept", "refused -", "refused -", "kept"],
  "a native WebSocket": ["welcome", "refused -", "refused -", "welcome"],
  "an EventSource": ["kept", "kept", "refused -", "kept"],
  "an EventSource of many topics": ["kept", "kept", "refused -", "kept"],
  "an EventSource with cookies": ["refused", "refused", "refused -", "refused"],
  "a GET": ["kept", "kept", "refused -", "kept"],
  "a GET with a name": ["refused", "named", "refused -", "named"],
  "a GET with cookies": ["refused", "refused", "refused -", "refused"],
  "a GET that is not to be read": ["opaque", "opaque", "refused", "refused"],
  "a script": ["kept", "kept", "refused", "refused"],
  "a POST of text": ["200 +", "401", "refused -", "200 +"],
  "a POST of JSON": ["refused", "401", "refused -", "200 +"],
  "a POST with a key": ["refused", "200 +", "refused -", "200 +"],
  "a POST that is not to be read": ["opaque +", "opaque", "refused -", "opaque +"],
  "a POST of a sandbox": ["200 +", "401", "refused -", "refused -"],
  "a form": ["sent +", "sent", "sent -", "sent +"],
  "fanfare.js": ["kept", "refused -", "refused -", "kept"],
};

const counted = async () => [
  await metric('fanfare_auth_failures_total{reason="origin"}'),
  await metric("fanfare_messages_total"),
];

/** What the page sees of one attempt, and what the gateway counts of it. */
async function attempt(page, what) {
  const [refusals, messages] = await counted();
  const seen = await page.evaluate((what) => attempts[what](), what);
  const [refusalsThen, messagesThen] = await counted();
  return seen + (refusalsThen > refusals ? " " : "") + "-".repeat(refusalsThen - refusals)
    + (messagesThen > messages ? " " : "") + "+".repeat(messagesThen - messages);
}

await publish("kept", "kept", "text/plain");
await withBrowser(async (browser) => {
  const page = await browser.newPage();
  await page.goto(`${origin}/attempts.html?${new URLSearchParams({ gateway: url, key })}`);
  expect("all attempts are expected", await page.evaluate(() => Object.keys(attempts)), Object.keys(expected));
  for (const [act, [name, configuration]] of Object.entries(acts).entries()) {
    await writeFile(process.env.FANFARE_FILE, configuration);
    process.kill(Number(process.env.FANFARE_PID), "SIGHUP");
    await until(name, async () => (await metric('fanfare_config_reloads_total{result="ok"}')) === act + 1);
    const seen = {};
    for (const what of Object.keys(expected)) seen[what] = await attempt(page, what);
    expect(name, seen, Object.fromEntries(Object.entries(expected).map(([what, row]) => [what, row[act]])));
  }
});
