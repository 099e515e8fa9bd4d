// EventSource and WebSocket in Chromium: the wire is cut while messages go out, and the gateway is restarted. Leaves
// pictures in target/artifacts.

import { withBrowser } from "./browser.mjs";
import { expect, publish, stage, until } from "./client.mjs";
import { open } from "./pages_host.mjs";

const wire = process.env.FANFARE_WIRE;

const publishAll = async (topic, numbers) => {
  let place;
  for (const number of numbers) place = await publish(topic, String(number));
  return place;
};
const five = [1, 2, 3, 4, 5];
const ten = [...five, 6, 7, 8, 9, 10];

await withBrowser(async (browser) => {
  const events = await open(browser, "event_source", { source: `${wire}/topics/events` });
  const socket = await open(browser, "websocket", { gateway: wire.replace("http", "ws"), topic: "frames" });
  const pages = [[events, "events"], [socket, "frames"]];

  for (const [page, topic] of pages) {
    await page.until("open");
    const { epoch } = await publishAll(topic, five);
    await until(`${page.name} shows the fifth`, async () => (await page.rows()).length >= 5);
    expect(`${page.name}, live`, await page.rows(), five.map((number) => [`${epoch}:${number}`, `${number}`]));
  }

  await stage("cut");
  const epochs = {};
  for (const [page, topic] of pages) {
    await until(`${page.name} is cut off`, async () => (await page.state()) !== "open");
    epochs[topic] = (await publishAll(topic, ten.slice(5))).epoch;
  }
  await stage("join");
  for (const [page, topic] of pages) {
    await until(`${page.name} shows the tenth`, async () => (await page.rows()).length >= 10);
    const expected = ten.map((number) => [`${epochs[topic]}:${number}`, `${number}`]);
    expect(`${page.name}, after the cut`, await page.rows(), expected);
    await page.picture("after-the-cut");
  }
  expect("EventSource, back", await events.state(), "open");
  expect("WebSocket, back", await socket.state(), "recovered: true");

  // Offsets begin anew with the gateway, and what the pages have seen is nothing to it.
  await stage("restart");
  const snapshots = {};
  for (const [, topic] of pages) snapshots[topic] = await publishAll(topic, [21, 22]);
  await stage("join");
  for (const [page, topic] of pages) {
    const { epoch, offset } = snapshots[topic];
    expect(`another epoch of ${topic}`, epoch !== epochs[topic], true);
    await until(`${page.name} has begun anew`, async () => (await page.rows()).length < 10);
    await until(`${page.name} has a snapshot`, async () => (await page.rows()).length > 0);
    expect(`${page.name}, after the restart`, await page.rows(), [[`${epoch}:${offset}`, "22"]]);
  }
  expect("WebSocket, after the restart", await socket.state(), "recovered: false");
  for (const [page, topic] of pages) {
    const { epoch } = await publish(topic, "23");
    await until(`${page.name} goes on`, async () => (await page.rows()).length > 1);
    expect(`${page.name}, live again`, (await page.rows()).slice(1), [[`${epoch}:3`, "23"]]);
    await page.picture("after-the-restart");
  }
  for (const [page] of pages) expect(`errors of ${page.name}`, page.errors, []);
});
