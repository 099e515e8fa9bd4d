// WebSockets of a page in Chromium, which offers permessage-deflate by itself: fewer bytes than characters.

import { complaintsOf, withBrowser } from "./browser.mjs";
import { expect, metric, publish, until, url, ws } from "./client.mjs";

const book = JSON.stringify(Array.from({ length: 100 }, (_, number) => [`64000.${number}`, "0.5"]));

await withBrowser(async (browser) => {
  const page = await browser.newPage();
  const complaints = complaintsOf(page);
  await page.goto(`${url}/healthz`);
  await page.evaluate(async (ws) => {
    globalThis.got = { raw: [], native: [] };
    const open = (name, path) => new Promise((resolve, reject) => {
      const socket = new WebSocket(ws + path);
      socket.onmessage = ({ data }) => got[name].push(data);
      socket.onopen = () => resolve(socket);
      socket.onerror = reject;
    });
    Object.assign(globalThis, { raw: await open("raw", "/topics/z.page"), native: await open("native", "/ws") });
    native.send(JSON.stringify({ type: "subscribe", topics: ["z.page"], filler: "x".repeat(5000) }));
  }, ws);
  const answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
  expect("what was negotiated", await page.evaluate(() => [raw.extensions, native.extensions]), [answer, answer]);
  // The welcome and the acknowledgement; the raw one says nothing.
  await until("/ws listens", () => page.evaluate(() => got.native.length === 2));
  await until("the topic's socket listens", async () => (await metric('fanfare_connections{transport="raw"}')) === 1);
  expect("compressing connections", await metric("fanfare_deflate_connections"), 2);

  const before = await metric("fanfare_delivery_bytes_total");
  for (let number = 0; number < 10; number += 1) await publish("z.page", book);
  await until("all came", () => page.evaluate(() => got.raw.length >= 10 && got.native.length === 12));
  expect("the raw messages", await page.evaluate(() => got.raw), Array(10).fill(book));
  expect("a native message", await page.evaluate(() => got.native[2]), `{"topic":"z.page","offset":1,"data":${book}}`);
  const bytes = (await metric("fanfare_delivery_bytes_total")) - before;
  if (bytes > (20 * book.length) / 3) throw new Error(`${bytes} bytes for 20 times ${book.length}`);
  expect("compressions", await metric("fanfare_deflated_messages_total"), 20);

  // The page compresses what it sends.
  await page.evaluate((book) => raw.send(book.repeat(10)), book);
  await until("its own message came", () => page.evaluate(() => got.raw.length === 11));
  expect("its own message", await page.evaluate(() => got.raw[10]), book.repeat(10));
  expect("complaints", complaints, []);
});
