// The page of `fanfare demo` in Chromium: prices move, a posted price shows as it was posted, and the page says so when
// the gateway is gone. Leaves pictures in target/artifacts.

import { execFileSync } from "node:child_process";

import { chromium, expect, until, url } from "./client.mjs";

const artifacts = process.env.FANFARE_ARTIFACTS;

const browser = await chromium.launch({
  executablePath: process.env.FANFARE_CHROMIUM,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(20_000);
  const complaints = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  const hosts = new Set();
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  page.on("websocket", (socket) => hosts.add(new URL(socket.url()).host));
  const prices = () => page.locator("#rows td.last").allTextContents();
  const text = (id) => page.locator(`#${id}`).textContent();

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
  await page.setViewportSize({ width: 1280, height: 900 });

  expect("what the browser complains of", complaints, []);
  expect("hosts that were asked", [...hosts], [new URL(url).host]);

  // From here on the browser may complain: nobody answers.
  process.kill(Number(process.env.FANFARE_PID), "SIGKILL");
  await page.getByText(/^Disconnected/).waitFor();
  await page.screenshot({ path: `${artifacts}/demo-disconnected.png` });
  expect("hosts that were asked to the end", [...hosts], [new URL(url).host]);
} finally {
  await browser.close();
}
