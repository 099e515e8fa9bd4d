// EventSource on /events, exact topics and a pattern, in Chromium: the wire is cut while messages go out, and the gateway
// is restarted. Leaves pictures in target/artifacts.

import { withBrowser } from "./browser.mjs";
import { expect, publish, stage, until } from "./client.mjs";
import { open } from "./pages_host.mjs";

const wire = process.env.FANFARE_WIRE;

/** Publishes to all topics in turn; returns each one's last place. */
async function publishAll(topics, numbers) {
  const places = {};
  for (const number of numbers) {
    for (const topic of topics) places[topic] = await publish(topic, String(number));
  }
  return places;
}

function* upTo(last, first = 1) {
  for (let number = first; number <= last; number += 1) yield number;
}

await withBrowser(async (browser) => {
  const page = await open(browser, "events", { source: `${wire}/events?topic=a&topic=b.*` });
  const rowsOf = async (topic) => (await page.rows()).filter(([name]) => name === topic).map((row) => row.slice(1));
  const all = (place, last) => [...upTo(last)].map((number) => [`${place.epoch}:${number}`, `${number}`]);

  await page.until("open");
  const topics = ["a", "b.x", "b.y"];
  let places = await publishAll(topics, upTo(5));
  await until("the fifth of each", async () => (await page.rows()).length >= 15);
  for (const topic of topics) expect(`${topic}, live`, await rowsOf(topic), all(places[topic], 5));

  // One of the topics is born while the page is away.
  await stage("cut");
  await until("the page is cut off", async () => (await page.state()) !== "open");
  places = { ...(await publishAll(topics, upTo(10, 6))), ...(await publishAll(["b.late"], upTo(3))) };
  await stage("join");
  await until("the tenth of each", async () => (await page.rows()).length >= 33);
  for (const topic of topics) expect(`${topic}, after the cut`, await rowsOf(topic), all(places[topic], 10));
  expect("the late one, from its first", await rowsOf("b.late"), all(places["b.late"], 3));
  await page.picture("after-the-cut");

  await stage("restart");
  const fresh = await publishAll(topics, [21, 22]);
  await stage("join");
  for (const topic of topics) {
    const { epoch } = fresh[topic];
    expect(`another epoch of ${topic}`, epoch !== places[topic].epoch, true);
    await until(`a snapshot of ${topic}`, async () => (await rowsOf(topic)).some(([place]) => place.startsWith(epoch)));
    expect(`${topic}, after the restart`, await rowsOf(topic), [[`${epoch}:2`, "22"]]);
    await publish(topic, "23");
    await until(`${topic} goes on`, async () => (await rowsOf(topic)).length > 1);
    expect(`${topic}, live again`, (await rowsOf(topic)).slice(1), [[`${epoch}:3`, "23"]]);
  }
  await page.picture("after-the-restart");
  expect("errors of the page", page.errors, []);
});
