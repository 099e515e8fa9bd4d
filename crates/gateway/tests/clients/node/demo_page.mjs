// The page of `fanfare demo` in Chromium: prices move, a posted price shows as it was posted, log lines come, wait and are
// found, and the page says so when the gateway is gone. Leaves pictures in target/artifacts.

import { execFileSync } from "node:child_process";

import { complaintsOf, withBrowser } from "./browser.mjs";
import { expect, publish, until, url } from "./client.mjs";

const artifacts = process.env.FANFARE_ARTIFACTS;

await withBrowser(async (browser) => {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(20_000);
  const complaints = complaintsOf(page);
  const hosts = new Set();
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  page.on("websocket", (socket) => hosts.add(new URL(socket.url()).host));
  const prices = () => page.locator("#rows td.last").allTextContents();
  const text = (id) => page.locator(`#${id}`).textContent();
  const sizes = async (view) => {
    for (const width of [320, 390, 760, 1000, 1280]) {
      await page.setViewportSize({ width, height: 844 });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      expect(`what the ${view} is wider than a window of ${width}`, over, 0);
    }
  };

  await page.goto(url);
  await page.getByText("Live", { exact: true }).waitFor();
  await until("every row has a price", async () => {
    const shown = await prices();
    return shown.length === 20 && shown.every((price) => price !== "");
  });
  const first = await prices();
  await until("prices move", async () => (await prices()).filter((price, row) => price !== first[row]).length > 5);
  await until("the rate is shown", async () => Number(await text("rate")) > 0);
  expect("offset gaps", await text("gaps"), "0");

  // The price of a stranger, digit for digit: a number would not keep its zeros. The market may trade the symbol at any
  // time, so it is posted until it is seen.
  const price = "70123.4500";
  await until("a posted price shows as it was posted", async () => {
    const body = JSON.stringify({ symbol: "BTC-USD", bid: price, ask: "70123.46", last: price });
    const post = ["-sS", "-f", "-H", "content-type: application/json", "-d", body, `${url}/topics/ticker.BTC-USD`];
    execFileSync(process.env.FANFARE_CURL, post, { timeout: 10_000 });
    return page.locator("#rows tr", { hasText: "BTC-USD" }).getByText(price, { exact: true }).first()
      .waitFor({ timeout: 1_000 }).then(() => true, () => false);
  });

  await page.getByLabel("Find a symbol").fill("btc");
  expect("rows that match", await page.locator("#rows tr:visible").count(), 1);
  await page.getByLabel("Find a symbol").fill("no such symbol");
  await page.getByText("No symbol matches.").waitFor();
  await page.getByLabel("Find a symbol").fill("");
  await page.getByLabel("Find a symbol").blur();
  await page.screenshot({ path: `${artifacts}/demo.png` });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: `${artifacts}/demo-phone.png` });
  await sizes("market");
  await page.setViewportSize({ width: 1280, height: 900 });

  // The other view: the lines that were before it was opened, and those that come.
  const lines = page.locator("#lines .line:visible");
  const distance = () => page.locator("#lines").evaluate((box) => box.scrollHeight - box.clientHeight - box.scrollTop);
  await page.getByRole("tab", { name: "Market" }).focus();
  await page.keyboard.press("ArrowRight");
  expect("the tab that is selected", await page.getByRole("tab", { selected: true }).textContent(), "Log");
  await page.getByText("Live", { exact: true }).waitFor();
  await until("lines come", async () => (await lines.count()) > 5);
  for (let number = 1; number <= 40; number += 1) await publish("logs.web", `a line as text ${number}`, "text/plain");
  await page.getByText("a line as text 40").waitFor();
  expect("the newest line is in view", (await distance()) < 24, true);

  await page.locator("#lines").evaluate((box) => { box.scrollTop = 40; });
  const readAt = () => page.locator("#lines").evaluate((box) => box.scrollTop);
  await page.getByText(/↓ \d+ new lines?/).waitFor();
  await publish("logs.db", '{"level":"error","host":"db-9","text":"somebody tripped over the cable"}');
  await page.getByText("tripped over the cable").waitFor({ state: "attached" });
  expect("who reads above is left there", await readAt(), 40);
  await page.getByRole("button", { name: /new line/ }).click();
  expect("the newest line is in view again", (await distance()) < 24, true);

  await page.getByLabel("Filter lines").fill("CABLE");
  expect("lines that match", await lines.count(), 1);
  expect("its level", await lines.getAttribute("class"), "line error");
  await page.screenshot({ path: `${artifacts}/demo-log-filtered.png` });
  await page.getByRole("button", { name: "Pause" }).click();
  await publish("logs.auth", '{"level":"warn","host":"auth-9","text":"another cable"}');
  await page.getByText(/\d+ new line/).waitFor();
  expect("lines that match while it is paused", await lines.count(), 1);
  await page.getByRole("button", { name: "Resume" }).click();
  await until("the other line that matches", async () => (await lines.count()) === 2);
  await page.getByLabel("Filter lines").fill("");
  await page.getByLabel("Filter lines").blur();
  expect("lines lost", await text("lines-lost"), "0");
  await page.screenshot({ path: `${artifacts}/demo-log.png` });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: `${artifacts}/demo-log-phone.png` });
  await sizes("log");
  await page.setViewportSize({ width: 1280, height: 900 });

  // No more than 500 are kept, however many come.
  await publish("logs.api?split=lines", Array.from({ length: 600 }, (_, index) => `bulk ${index}`).join("\n"), "text/plain");
  await page.getByText("bulk 599").waitFor();
  expect("lines that are kept", await page.locator("#lines .line").count(), 500);

  expect("what the browser complains of", complaints, []);
  expect("hosts that were asked", [...hosts], [new URL(url).host]);

  // From here on the browser may complain: nobody answers.
  process.kill(Number(process.env.FANFARE_PID), "SIGKILL");
  await page.getByText(/^Disconnected/).waitFor();
  await page.screenshot({ path: `${artifacts}/demo-log-disconnected.png` });
  await page.getByRole("tab", { name: "Market" }).click();
  await page.getByText(/^Disconnected/).waitFor();
  await page.screenshot({ path: `${artifacts}/demo-disconnected.png` });
  expect("hosts that were asked to the end", [...hosts], [new URL(url).host]);
});
