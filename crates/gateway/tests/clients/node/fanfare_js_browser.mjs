// /fanfare.js in Chromium: subscribes and publishes; comes back through a cut connection with each message once and in
// order; tells gaps and what could not be resumed; does without WebSockets where they are refused. The gateway keeps eight
// messages of a topic.

import { complaintsOf, withBrowser } from "./browser.mjs";
import { expect, publish, until, url } from "./client.mjs";
import { CuttingProxy } from "./cutting_proxy.mjs";

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

async function publishAll(topic, offsets) {
  for (const offset of offsets) expect("the offset", (await publish(topic, String(offset))).offset, offset);
}

/** A page of the proxy's with a client of its own, what came and what was told. Not yet connected: it may be told how. */
async function open(browser, proxy, topics, { before = () => {} } = {}) {
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(`${proxy.url}/healthz`);
  await before(page);
  await page.evaluate(async (topics) => {
    const { Fanfare } = await import("/fanfare.js");
    Object.assign(globalThis, { got: [], told: [], states: [] });
    globalThis.fanfare = new Fanfare(undefined, { backOffMaxMs: 300 });
    for (const name of ["gap", "reset", "refused", "error"]) fanfare.on(name, (event) => told.push({ name, ...event }));
    fanfare.on("connection", ({ state, transport }) => states.push(`${state} ${transport}`));
    for (const topic of topics) fanfare.subscribe(topic, ({ offset, data }) => got.push([offset, data]));
  }, topics);
  return page;
}

const state = (page) => page.evaluate(() => `${fanfare.connection.state} ${fanfare.connection.transport}`);
const offsets = (page) => page.evaluate(() => got.map(([offset]) => offset));
const told = (page) => page.evaluate(() => told.map(({ name, topic, from, to, reason }) => ({ name, topic, from, to, reason })));
const is = (page, wanted) => until(`the client is ${wanted}`, async () => (await state(page)) === wanted);
const has = (page, last) => until(`offset ${last} came`, async () => (await offsets(page)).at(-1) === last);

async function aCutConnection(browser) {
  const proxy = await CuttingProxy.start();
  const page = await open(browser, proxy, ["browser.cut"]);
  const complaints = complaintsOf(page);
  await is(page, "open websocket");
  const place = await page.evaluate(() => fanfare.publish("browser.cut", 1, { event: "first" }));
  expect("the first place", place.offset, 1);
  await publishAll("browser.cut", numbers(2, 5));
  await has(page, 5);
  expect("what the browser complains of", complaints, []);

  const unanswered = page.evaluate(() => new Promise((resolve) => {
    fanfare.on("connection", ({ state }) => {
      if (state === "waiting") fanfare.publish("browser.cut", 0).catch((error) => resolve(error.code));
    });
  }));
  proxy.cut();
  expect("a publish without a connection", await unanswered, "disconnected");
  await publishAll("browser.cut", numbers(6, 10));
  expect("nothing came meanwhile", await offsets(page), numbers(1, 5));
  proxy.mend();
  await is(page, "open websocket");
  await publishAll("browser.cut", numbers(11, 12));
  await has(page, 12);
  expect("each once and in order", await offsets(page), numbers(1, 12));
  expect("nothing was lost", await told(page), []);

  // Away for longer than the gateway remembers.
  proxy.cut();
  await publishAll("browser.cut", numbers(13, 40));
  proxy.mend();
  await has(page, 40);
  expect("then the newest", await offsets(page), [...numbers(1, 12), 40]);
  expect("and a word about it", (await told(page)).map(({ name, topic }) => [name, topic]), [["reset", "browser.cut"]]);
  await page.close();
}

/** Nothing of this can be made to happen with a gateway that keeps its promises: the frames are changed on their way. */
async function holes(browser) {
  const proxy = await CuttingProxy.start();
  const page = await open(browser, proxy, ["browser.gap"], {
    before: (page) => page.routeWebSocket(/\/ws/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((text) => {
        const { offset } = JSON.parse(text);
        if (offset === 3) return;
        if (offset === 6) socket.send('{"type":"gap","topic":"browser.gap","from":6,"to":6,"reason":"slow"}');
        else socket.send(text);
        if (offset === 5) socket.send(text);
      });
    }),
  });
  await is(page, "open websocket");
  // After its own subscribe on the same connection: from here on it gets everything.
  await page.evaluate(() => fanfare.publish("browser.gap", 1));
  await publishAll("browser.gap", numbers(2, 8));
  await has(page, 8);
  expect("what came", await offsets(page), [1, 2, 4, 5, 7, 8]);
  const gap = { name: "gap", topic: "browser.gap" };
  expect("gaps", await told(page),
    [{ ...gap, from: 3, to: 3, reason: "unannounced" }, { ...gap, from: 6, to: 6, reason: "slow" }]);
  await page.close();
}

async function noWebSockets(browser) {
  const proxy = await CuttingProxy.start();
  proxy.refusesWebSockets = true;
  await publishAll("browser.events", [1]);
  const page = await open(browser, proxy, ["browser.events"]);
  await is(page, "open events");
  await has(page, 1);
  expect("two attempts, then events", proxy.asked.filter((path) => /^\/(ws|events)/.test(path)),
    ["/ws?heartbeat=15", "/ws?heartbeat=15", "/events?topic=browser.events&from=last&heartbeat=15"]);
  const place = await page.evaluate(() => fanfare.publish("browser.events", 2, { key: "k", event: "second" }));
  expect("a publish is a POST", [place.offset, proxy.asked.includes("/topics/browser.events")], [2, true]);
  await publishAll("browser.events", numbers(3, 5));
  await has(page, 5);
  proxy.drop();
  await publishAll("browser.events", numbers(6, 8));
  await has(page, 8);
  expect("each once and in order", await offsets(page), numbers(1, 8));

  // When WebSockets are let through, the next connection is one.
  proxy.refusesWebSockets = false;
  proxy.drop();
  await publishAll("browser.events", numbers(9, 10));
  await is(page, "open websocket");
  await has(page, 10);
  expect("each once and in order, still", await offsets(page), numbers(1, 10));
  expect("nothing was lost", await told(page), []);
  await page.close();
}

/** Topics that come by a wildcard: there are some, some are born later; a cut loses nothing of either, over both transports. */
async function wildcards(browser) {
  for (const refusesWebSockets of [false, true]) {
    const group = `wild${Number(refusesWebSockets)}`;
    const proxy = await CuttingProxy.start();
    proxy.refusesWebSockets = refusesWebSockets;
    const say = (text) => publish(`${group}.${text[0]}`, JSON.stringify(text));
    await say("a1");
    const page = await open(browser, proxy, [`${group}.*`]);
    await is(page, refusesWebSockets ? "open events" : "open websocket");
    const data = () => page.evaluate(() => got.map(([, data]) => data));
    const came = (wanted) => until(`${wanted} came`, async () => (await data()).includes(wanted));
    await came("a1");
    for (const text of ["b1", "a2", "b2"]) await say(text);
    await came("b2");
    // Away for long enough to try in vain.
    const triedInVain = page.evaluate(() => new Promise((resolve) => {
      let waits = 0;
      fanfare.on("connection", ({ state }) => { if (state === "waiting" && ++waits === 3) resolve(); });
    }));
    proxy.cut();
    for (const text of ["a3", "c1", "b3", "c2"]) await say(text);
    await triedInVain;
    proxy.mend();
    for (const last of ["a3", "b3", "c2"]) await came(last);
    for (const topic of ["a", "b", "c"]) {
      const expected = { a: ["a1", "a2", "a3"], b: ["b1", "b2", "b3"], c: ["c1", "c2"] }[topic];
      expect(`each of ${topic} once and in order`, (await data()).filter((text) => text[0] === topic), expected);
    }
    expect("nothing was lost", await told(page), []);
    await page.close();
  }
}

/** A page of another host uses the gateway that it imports from. */
async function anotherOrigin(browser) {
  const proxy = await CuttingProxy.start();
  const page = await browser.newPage();
  await page.goto(`${proxy.url}/healthz`);
  await publishAll("browser.other", [1]);
  const offset = await page.evaluate(async (url) => {
    const { Fanfare } = await import(`${url}/fanfare.js`);
    return new Promise((resolve) => new Fanfare().subscribe("browser.other", ({ offset }) => resolve(offset)));
  }, url);
  expect("its last value", offset, 1);
  expect("the page's own host", proxy.asked, ["/healthz", "/favicon.ico"].slice(0, proxy.asked.length));
  await page.close();
}

await withBrowser(async (browser) => {
  await aCutConnection(browser);
  await holes(browser);
  await noWebSockets(browser);
  await wildcards(browser);
  await anotherOrigin(browser);
});
