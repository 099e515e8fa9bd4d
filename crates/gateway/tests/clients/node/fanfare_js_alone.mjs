// What /fanfare.js does when: back-off, holes, resuming, silence. No network and no waiting: sockets and clock are played.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { Fanfare, Position, matches, retryDelayMs } from "./fanfare_js.mjs";

// --- Played -------------------------------------------------------------------------------------------------------

mock.timers.enable({ apis: ["setTimeout", "setInterval"] });

class Socket {
  static all = [];
  static get last() { return Socket.all.at(-1); }
  readyState = 0;
  sent = [];

  constructor(url, protocol) {
    Object.assign(this, { url, protocol });
    Socket.all.push(this);
  }

  send(text) { this.sent.push(JSON.parse(text)); }
  close() { this.readyState = 3; }

  open(welcome = {}) {
    this.readyState = 1;
    this.say({ type: "welcome", client: "0-0-1", ping: 25, max_message: 65536, ...welcome });
  }

  say(frame) { this.onmessage({ data: JSON.stringify(frame) }); }

  drop(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

// Of an EventSource.
const CONNECTING = 0;
const CLOSED = 2;

class Source extends EventTarget {
  static all = [];
  static get last() { return Source.all.at(-1); }

  constructor(url) {
    super();
    this.url = new URL(url);
    Source.all.push(this);
  }

  close() { this.closed = true; }

  say(type, frame, lastEventId = "") {
    this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(frame), lastEventId }));
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A client, and what it said. `random` 1: every wait is as long as it can be. */
async function begin(options = {}) {
  Socket.all.length = Source.all.length = 0;
  const fanfare = new Fanfare("http://gateway.test/", { WebSocket: Socket, EventSource: Source, random: () => 1, ...options });
  const heard = [];
  for (const name of ["gap", "reset", "status", "refused", "topic", "error"]) {
    fanfare.on(name, (event) => heard.push([name, event]));
  }
  await turn();
  return { fanfare, heard };
}

function into(messages) {
  return ({ topic, epoch, offset }) => messages.push(`${topic} ${epoch}:${offset}`);
}

const ack = (...topics) => ({ type: "subscribed", id: 1, topics });
const message = (topic, offset) => ({ topic, offset, data: offset });

// --- Rules --------------------------------------------------------------------------------------------------------

test("the close code says whether, and the attempt how soon", () => {
  const options = { backOffBaseMs: 250, backOffMaxMs: 10_000 };
  for (const [end, attempt, least, most] of [
    [{ code: 1006 }, 0, 0, 250],
    [{ code: 1006 }, 1, 0, 500],
    [{ code: 1006 }, 5, 0, 8_000],
    [{ code: 1006 }, 6, 0, 10_000],
    [{ code: 1012 }, 5_000, 0, 10_000],
    [{ code: 1000 }, 0, 0, 250],
    [{ code: 4200 }, 0, 0, 250],
    [{ code: 4299 }, 3, 0, 2_000],
    [{ code: 4200, retryMs: 3_200 }, 0, 3_200, 3_200],
    [{ code: 4100 }, 0, 1_000, 1_250],
    [{ code: 4101 }, 9, 1_000, 11_000],
    [{ code: 1002 }, 0, undefined, undefined],
    [{ code: 1009, retryMs: 5 }, 0, undefined, undefined],
    [{ code: 4500 }, 0, undefined, undefined],
    [{ code: 4999, retryMs: 5 }, 0, undefined, undefined],
  ]) {
    const delays = [0, 1].map((random) => retryDelayMs(end, attempt, { ...options, random: () => random }));
    assert.deepEqual(delays, [least, most], JSON.stringify([end, attempt]));
  }
});

/** A token that says when it expires. */
const token = (name, seconds) => {
  const claims = Buffer.from(JSON.stringify({ sub: name, exp: Date.now() / 1000 + seconds })).toString("base64url");
  return `${name}.${claims}.x`;
};

test("a token is shown by what a browser can send", async () => {
  const { fanfare } = await begin({ token: "a-key-of-some-length", fetch: async (url, { headers }) => {
    asked.push(headers.Authorization);
    throw new Error("no network");
  } });
  const asked = [];
  assert.deepEqual(Socket.last.protocol, ["fanfare.v1.json", "fanfare.bearer.a-key-of-some-length"]);
  Socket.last.drop();
  mock.timers.tick(250);
  Socket.last.drop();
  fanfare.subscribe("a", () => {});
  mock.timers.tick(500);
  assert.equal(Source.last.url.searchParams.get("access_token"), "a-key-of-some-length");
  Source.last.say("subscribed", ack({ topic: "a", epoch: "k", offset: 0 }));
  await assert.rejects(fanfare.publish("a", 1));
  assert.deepEqual(asked, ["Bearer a-key-of-some-length"]);
  fanfare.close();
});

test("a token is refreshed before it expires, and got anew when it has", async () => {
  let count = 0;
  const { fanfare } = await begin({ token: async () => token(`t${count += 1}`, 100) });
  await turn();
  assert.match(Socket.last.protocol[1], /^fanfare.bearer.t1\./);
  Socket.last.open();
  const pass = async (seconds) => { // and be heard meanwhile
    for (let passed = 0; passed < seconds; passed += 5) {
      Socket.last.say({ type: "heartbeat", time: 1 });
      mock.timers.tick(5_000);
      await turn();
    }
  };
  await pass(75);
  assert.ok(!Socket.last.sent.some(({ type }) => type === "auth"));
  await pass(10);
  const auth = Socket.last.sent.find(({ type }) => type === "auth");
  assert.match(auth.token, /^t2\./);
  Socket.last.drop(4501, "token expired");
  assert.equal(fanfare.connection.state, "waiting");
  mock.timers.tick(1_500);
  await turn();
  assert.match(Socket.last.protocol[1], /^fanfare.bearer.t3\./);
  fanfare.close();
});

test("without a way to another token, its end is the end; and no token is a reason to try again", async () => {
  const { fanfare } = await begin({ token: "t" });
  Socket.last.open();
  Socket.last.drop(4501, "token expired");
  assert.equal(fanfare.connection.state, "closed");
  const other = await begin({ token: () => { throw new Error("not logged in"); } });
  await turn();
  assert.match(other.fanfare.connection.reason, /not logged in/);
  assert.equal(other.fanfare.connection.state, "waiting");
  other.fanfare.close();
});

test("patterns match as NATS's do", () => {
  for (const [pattern, topic, expect] of [
    ["a", "a", true], ["a", "b", false], ["a", "a.b", false],
    ["a.*", "a.b", true], ["a.*", "a", false], ["a.*", "a.b.c", false], ["*.b", "a.b", true], ["*", "a", true],
    ["a.*.c", "a.b.c", true], ["a.*.c", "a.b.d", false],
    ["a.>", "a.b", true], ["a.>", "a.b.c", true], ["a.>", "a", false], [">", "a.b", true], ["*.>", "a", false],
    ["trades.*", "tradesX.a", false],
  ]) {
    assert.equal(matches(pattern, topic), expect, `${pattern} ${topic}`);
  }
});

test("a position tells repeats, holes and what is neither", () => {
  const check = (steps, expect, what) => {
    const position = new Position();
    const got = [];
    for (const step of steps) {
      if (typeof step === "number") got.push(position.advance(step));
      else if (step.to !== undefined) position.skip(step);
      else got.push(position.announce({ epoch: "e", ...step }, step.own));
    }
    assert.deepEqual(got, expect, what);
    return position;
  };
  const ok = undefined;
  check([{ offset: 0 }, 1, 2, 3], [ok, ok, ok, ok], "from the first message");
  check([{ offset: 9, replay: 1 }, 9, 10], [ok, ok, ok], "the last value, then live");
  check([{ offset: 9 }, 11], [ok, { from: 10, to: 10 }], "a hole at the beginning of what is live");
  check([{ offset: 9, replay: 3 }, 2, 5, 9, 10], [ok, ok, ok, ok, ok], "what a replay leaves out is not lost");
  check([{ offset: 0 }, 1, 4, 4, 2, 5], [ok, ok, { from: 2, to: 3 }, "repeat", "repeat", ok], "a hole, and repeats");
  check([{ offset: 0 }, 1, { to: 4 }, 5, 7], [ok, ok, ok, { from: 6, to: 6 }], "an announced gap is no hole");
  check([{ offset: 0, policy: "conflate" }, 1, 9, 9], [ok, ok, ok, "repeat"], "conflated");
  check([{ offset: 0, own: { conflates: true } }, 1, 9], [ok, ok, ok], "at most so many times a second");
  check([{ offset: 5, replay: 1 }, 5, { offset: 8, recovered: true, replay: 3 }, 5, 6, 7, 8, 9],
    [ok, ok, ok, "repeat", ok, ok, ok, ok], "resumed");
  check([{ offset: 5, replay: 1 }, 5, { offset: 8, recovered: true }, 7], [ok, ok, ok, { from: 6, to: 6 }],
    "said to be resumed, and is not");
  check([{ offset: 5, replay: 1 }, 5, { offset: 9, recovered: false, replay: 1 }, 9],
    [ok, ok, { epoch: "e", offset: 5 }, ok], "not resumed: the last value is a snapshot");
  check([{ offset: 5, replay: 1 }, 5, { epoch: "f", offset: 2, replay: 1 }, 2],
    [ok, ok, { epoch: "e", offset: 5 }, ok], "a new epoch");
  check([{ offset: 9, own: { floor: 9 } }, 8, 9, 10], [ok, "repeat", "repeat", ok], "more than was asked for");

  for (const [steps, expect, what] of [
    [[{ offset: 9, replay: 1 }], 8, "cut off before the replay: it is asked for again"],
    [[{ offset: 9 }], 9, "live"],
    [[{ offset: 9, replay: 1 }, 9], 9, "after the replay"],
    [[{ offset: 9, replay: 1 }, 9, { to: 20 }], 20, "after a gap"],
  ]) {
    assert.equal(check(steps, steps.filter((step) => step.to === undefined).map(() => ok), what).offset, expect, what);
  }
});

// --- Connections --------------------------------------------------------------------------------------------------

test("a lost connection is resumed from the last offset of every topic", async () => {
  const { fanfare, heard } = await begin();
  const messages = [];
  fanfare.subscribe("a", into(messages));
  fanfare.subscribe("b", { from: "live", maxHz: 5 }, into(messages));
  assert.equal(Socket.last.url, "ws://gateway.test/ws?heartbeat=15");
  assert.equal(Socket.last.protocol, "fanfare.v1.json");
  Socket.last.open();
  assert.deepEqual(Socket.last.sent.map(({ type, topics }) => [type, topics]),
    [["subscribe", ["a", { topic: "b", from: "live", max_hz: 5 }]]]);
  Socket.last.say(ack({ topic: "a", epoch: "e", offset: 1, replay: 1 }, { topic: "b", epoch: "g", offset: 70 }));
  for (const offset of [1, 2, 3]) Socket.last.say(message("a", offset));
  Socket.last.drop();
  assert.deepEqual(fanfare.connection,
    { state: "waiting", transport: "websocket", reason: "", code: 1006, retryMs: 250 });
  mock.timers.tick(249);
  assert.equal(Socket.all.length, 1);
  mock.timers.tick(1);
  Socket.last.open();
  assert.deepEqual(Socket.last.sent[0].topics,
    [{ topic: "a", epoch: "e", offset: 3 }, { topic: "b", epoch: "g", offset: 70, max_hz: 5 }]);
  Socket.last.say(ack({ topic: "a", epoch: "e", offset: 5, recovered: true, replay: 2 },
    { topic: "b", epoch: "g", offset: 70, recovered: true }));
  for (const offset of [3, 4, 5, 6]) Socket.last.say(message("a", offset));
  Socket.last.say(message("b", 90));
  assert.deepEqual(messages, ["a e:1", "a e:2", "a e:3", "a e:4", "a e:5", "a e:6", "b g:90"]);
  assert.deepEqual(heard, []);
  fanfare.close();
});

test("a pattern is resumed with the positions of its topics", async () => {
  const { fanfare, heard } = await begin();
  const messages = [];
  fanfare.subscribe("t.*", into(messages));
  Socket.last.open();
  assert.deepEqual(Socket.last.sent[0].topics, ["t.*"]);
  Socket.last.say(ack({ topic: "t.*", matched: 1 }));
  Socket.last.say({ type: "topic", topic: "t.x", epoch: "e", offset: 7 });
  Socket.last.say(message("t.x", 7));
  Socket.last.say({ type: "topic", topic: "t.new", epoch: "f", offset: 0 });
  Socket.last.say(message("t.new", 1));
  Socket.last.drop();
  mock.timers.tick(250);
  Socket.last.open();
  assert.deepEqual(Socket.last.sent[0].topics, [{ topic: "t.*",
    positions: { "t.x": { epoch: "e", offset: 7 }, "t.new": { epoch: "f", offset: 1 } }, from: "earliest" }]);
  Socket.last.say(ack({ topic: "t.*", matched: 2, recovered: false }));
  Socket.last.say({ type: "topic", topic: "t.x", epoch: "e", offset: 8, recovered: true });
  Socket.last.say(message("t.x", 8));
  Socket.last.say({ type: "topic", topic: "t.new", epoch: "z", offset: 4, recovered: false });
  Socket.last.say(message("t.new", 4));
  assert.deepEqual(messages, ["t.x e:7", "t.new f:1", "t.x e:8", "t.new z:4"]);
  assert.deepEqual(heard.filter(([name]) => name !== "topic"),
    [["reset", { topic: "t.new", epoch: "z", offset: 4, previous: { epoch: "f", offset: 1 } }]]);
  assert.deepEqual(heard.filter(([name]) => name === "topic").map(([, { topic }]) => topic),
    ["t.x", "t.new", "t.x", "t.new"]);

  // A topic that is not announced by a connection that lasts is gone, and not asked for; unless it is still to come.
  for (const [matched, positions] of [[2, ["t.x", "t.new"]], [1, ["t.x", "t.new"]], [1, ["t.x"]]]) {
    mock.timers.tick(6_000);
    Socket.last.drop();
    mock.timers.tick(250);
    Socket.last.open();
    assert.deepEqual(Object.keys(Socket.last.sent[0].topics[0].positions), positions);
    Socket.last.say(ack({ topic: "t.*", matched, recovered: true }));
    Socket.last.say({ type: "topic", topic: "t.x", epoch: "e", offset: 8, recovered: true });
  }
  fanfare.close();
});

test("a replay that is cut off is asked for again, one that brought nothing is not", async () => {
  const { fanfare } = await begin();
  fanfare.subscribe("a", () => {});
  for (const [lasts, sent] of [[1_000, ["a"]], [6_000, [{ topic: "a", epoch: "e", offset: 8 }]],
    [0, [{ topic: "a", epoch: "e", offset: 9 }]]]) {
    Socket.last.open();
    assert.deepEqual(Socket.last.sent[0].topics, sent);
    Socket.last.say(ack({ topic: "a", epoch: "e", offset: 9, replay: 1 }));
    mock.timers.tick(lasts);
    Socket.last.drop();
    mock.timers.tick(10_000);
  }
  fanfare.close();
});

test("gaps are told once, announced or not, to who subscribed to the topic", async () => {
  const { fanfare, heard } = await begin();
  const mine = [];
  const others = [];
  fanfare.subscribe("a", () => {}).on("gap", ({ from, to, reason }) => mine.push([from, to, reason]));
  fanfare.subscribe("b", () => {}).on("gap", (gap) => others.push(gap));
  Socket.last.open();
  Socket.last.say(ack({ topic: "a", epoch: "e", offset: 0 }, { topic: "b", epoch: "e", offset: 0 }));
  Socket.last.say(message("a", 1));
  Socket.last.say({ type: "gap", topic: "a", epoch: "e", from: 2, to: 5, reason: "slow" });
  Socket.last.say(message("a", 6));
  Socket.last.say(message("a", 9));
  assert.deepEqual(mine, [[2, 5, "slow"], [7, 8, "unannounced"]]);
  assert.deepEqual([others, heard.length], [[], 2]);
  Socket.last.say({ type: "status", topic: "b", status: "stale", age_ms: 5200 });
  assert.deepEqual(heard.at(-1), ["status", { topic: "b", status: "stale", ageMs: 5200 }]);
  fanfare.close();
});

test("attempts are further and further apart, until a connection lasts", async () => {
  const { fanfare } = await begin({ EventSource: null });
  const waits = [];
  fanfare.on("connection", ({ retryMs }) => { if (retryMs !== undefined) waits.push(retryMs); });
  const lose = () => {
    Socket.last.drop();
    mock.timers.tick(10_000);
  };
  for (let attempt = 0; attempt < 8; attempt += 1) lose();
  assert.deepEqual(waits.splice(0), [250, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
  Socket.last.open();
  mock.timers.tick(1_000);
  lose();
  assert.deepEqual(waits.splice(0), [10_000], "it opened, but did not last");
  Socket.last.open();
  mock.timers.tick(5_000);
  lose();
  assert.deepEqual(waits, [250]);
  fanfare.close();
});

test("a silent server is asked, and then left", async () => {
  const { fanfare } = await begin();
  Socket.last.open();
  const [socket] = Socket.all;
  const beat = () => socket.say({ type: "heartbeat", time: 1 });
  for (let beats = 0; beats < 20; beats += 1) {
    mock.timers.tick(15_000);
    beat();
  }
  assert.deepEqual(socket.sent, []);
  mock.timers.tick(30_000);
  assert.deepEqual(socket.sent, [{ type: "ping" }], "it may know no heartbeat");
  assert.equal(fanfare.connection.state, "open");
  mock.timers.tick(7_500);
  assert.deepEqual([fanfare.connection.state, fanfare.connection.reason], ["waiting", "the server is silent"]);
  fanfare.close();
});

test("what opens, but never says welcome, counts as not opened", async () => {
  const { fanfare } = await begin({ webSocketAttempts: 1 });
  fanfare.subscribe("a", () => {});
  Socket.last.readyState = 1;
  mock.timers.tick(10_000);
  mock.timers.tick(250);
  assert.equal(Source.all.length, 1);
  fanfare.close();
});

test("the server's words decide when to come back, or never", async () => {
  const { fanfare } = await begin();
  Socket.last.open();
  Socket.last.say({ type: "bye", code: 4200, reason: "draining", retry_ms: 3_200 });
  Socket.last.drop(4200, "draining");
  assert.deepEqual([fanfare.connection.retryMs, fanfare.connection.reason], [3_200, "draining"]);
  mock.timers.tick(3_200);
  Socket.last.open();
  Socket.last.drop(4503, "forbidden");
  assert.deepEqual(fanfare.connection, { state: "closed", transport: "websocket", reason: "forbidden", code: 4503 });
  mock.timers.tick(60_000);
  assert.equal(Socket.all.length, 2);
  await assert.rejects(fanfare.ready(), { code: "disconnected" });
  fanfare.reconnect();
  assert.equal(Socket.all.length, 3);
  fanfare.close();
  mock.timers.tick(60_000);
  assert.equal(Socket.all.length, 3);
});

test("a publish has a place, a refusal, or an outcome that nobody knows", async () => {
  const { fanfare } = await begin();
  await assert.rejects(fanfare.publish("a", 1), { name: "FanfareError", code: "disconnected" });
  Socket.last.open({ max_message: 200 });
  await assert.rejects(fanfare.publish("a", "é".repeat(100)), { code: "too_large" });
  await assert.rejects(fanfare.publish("a", undefined), TypeError);
  const [taken, refused, lost] = [
    fanfare.publish("a", { x: "1.10" }, { key: "k", event: "said" }), fanfare.publish("b b", 2), fanfare.publish("a", null),
  ];
  const [first, second] = Socket.last.sent;
  assert.deepEqual(first, { type: "publish", id: first.id, topic: "a", data: { x: "1.10" }, event: "said", key: "k" });
  Socket.last.say({ type: "error", id: second.id, code: "bad_topic", message: "not a topic" });
  Socket.last.say({ type: "published", id: first.id, epoch: "e", offset: 9 });
  assert.deepEqual(await taken, { epoch: "e", offset: 9 });
  await assert.rejects(refused, { code: "bad_topic", message: "not a topic" });
  Socket.last.drop();
  await assert.rejects(lost, { code: "unknown_outcome" });
  await assert.rejects(fanfare.publish("a", 1), { code: "disconnected" });
  fanfare.close();
});

test("subscriptions of one topic share it, and the last one ends it", async () => {
  const { fanfare } = await begin();
  Socket.last.open();
  const [one, other, pattern] = [[], [], []];
  const first = fanfare.subscribe("a.b", into(one));
  await turn();
  Socket.last.say(ack({ topic: "a.b", epoch: "e", offset: 0 }));
  Socket.last.say(message("a.b", 1));
  const second = fanfare.subscribe("a.b", into(other));
  const third = fanfare.subscribe("a.*", into(pattern));
  await turn();
  assert.deepEqual([one, other, pattern], [["a.b e:1"], ["a.b e:1"], ["a.b e:1"]], "the newest is there at once");
  third.unsubscribe();
  first.unsubscribe();
  first.unsubscribe();
  Socket.last.say(message("a.b", 2));
  assert.deepEqual([one.length, other.length, pattern.length], [1, 2, 1]);
  second.unsubscribe();
  assert.deepEqual(Socket.last.sent.map(({ type, topics }) => `${type} ${JSON.stringify(topics)}`), [
    'subscribe ["a.b"]',
    'subscribe [{"topic":"a.*","positions":{"a.b":{"epoch":"e","offset":1}}}]',
    'unsubscribe ["a.*"]',
    'unsubscribe ["a.b"]',
  ]);
  // What was under way is nobody's, also when somebody asks again.
  const again = [];
  fanfare.subscribe("a.b", into(again));
  await turn();
  Socket.last.say(message("a.b", 3));
  assert.deepEqual(again, []);
  Socket.last.say(ack({ topic: "a.b", epoch: "e", offset: 3, replay: 1 }));
  Socket.last.say(message("a.b", 3));
  assert.deepEqual(again, ["a.b e:3"]);
  fanfare.close();
});

test("who asks for more than fits into a frame asks twice", async () => {
  const { fanfare } = await begin();
  for (let index = 0; index < 100; index += 1) fanfare.subscribe(`topic.${index}`, () => {});
  Socket.last.open({ max_message: 600 });
  assert.ok(Socket.last.sent.length > 2);
  assert.ok(Socket.last.sent.every((frame) => JSON.stringify(frame).length <= 600));
  assert.equal(Socket.last.sent.flatMap(({ topics }) => topics).length, 100);
  fanfare.close();
});

test("a refused topic is told; the others go on", async () => {
  const { fanfare, heard } = await begin();
  const messages = [];
  fanfare.subscribe("a", into(messages));
  fanfare.subscribe("b b", into(messages));
  Socket.last.open();
  const error = { code: "bad_topic", message: "no" };
  Socket.last.say(ack({ topic: "a", epoch: "e", offset: 0 }, { topic: "b b", error }));
  Socket.last.say(message("a", 1));
  assert.deepEqual([heard, messages], [[["refused", { topic: "b b", error }]], ["a e:1"]]);
  fanfare.close();
});

test("binary comes as bytes; a handler that throws harms nobody", async () => {
  const { fanfare } = await begin();
  const later = [];
  const got = [];
  fanfare.subscribe("a", () => { throw new Error("mine"); });
  fanfare.subscribe("a", ({ data, event }) => got.push([data, event]));
  Socket.last.open();
  Socket.last.say(ack({ topic: "a", epoch: "e", offset: 0 }));
  const replaced = mock.method(globalThis, "queueMicrotask", (task) => later.push(task));
  Socket.last.say({ topic: "a", offset: 1, event: "x", data64: "AP8=" });
  replaced.mock.restore();
  assert.deepEqual(got, [[Uint8Array.of(0, 255), "x"]]);
  assert.throws(later[0], /mine/, "it goes where uncaught errors go");
  fanfare.close();
});

test("where WebSockets never open there are events, and WebSockets again after them", async () => {
  const { fanfare, heard } = await begin();
  const messages = [];
  fanfare.subscribe("a", into(messages));
  fanfare.subscribe("t.*", { from: "live" }, into(messages));
  Socket.last.drop();
  mock.timers.tick(250);
  Socket.last.drop();
  mock.timers.tick(500);
  assert.deepEqual([Socket.all.length, Source.all.length], [2, 1]);
  assert.equal(Source.last.url.href, "http://gateway.test/events?topic=a&topic=t.*&from=last&heartbeat=15");
  Source.last.onopen();
  assert.equal(fanfare.connection.state, "connecting", "until it says what is subscribed");
  Source.last.say("subscribed",
    { topics: [{ topic: "a", epoch: "e", offset: 3, replay: 1 }, { topic: "t.*", matched: 1 }] }, "n:100");
  assert.deepEqual(fanfare.connection, { state: "open", transport: "events" });
  Source.last.say("topic", { topic: "t.x", epoch: "f", offset: 5 });
  Source.last.say("message", message("a", 3));
  Source.last.say("message", message("t.x", 5));
  Source.last.say("message", message("t.x", 6));
  Source.last.say("message", message("a", 4), "n:104");
  Source.last.say("gap", { topic: "a", epoch: "e", from: 5, to: 6, reason: "slow" });
  assert.deepEqual(messages, ["a e:3", "t.x f:6", "a e:4"], "who asked for live is spared what was before");
  assert.deepEqual(heard.at(-1), ["gap", { topic: "a", epoch: "e", from: 5, to: 6, reason: "slow" }]);

  // The stream ends; one more WebSocket, and the stream goes on where it was.
  const [stream] = Source.all;
  stream.onerror();
  assert.ok(stream.closed);
  mock.timers.tick(10_000);
  assert.deepEqual([Socket.all.length, Source.all.length], [3, 1]);
  Socket.last.drop();
  mock.timers.tick(10_000);
  assert.equal(Source.last.url.search, "?topic=a&topic=t.*&last_event_id=n%3A104&heartbeat=15");
  Source.last.onopen();
  Source.last.say("subscribed", { topics: [{ topic: "a", epoch: "e", offset: 8 }, { topic: "t.*", matched: 1 }] }, "n:110");
  Source.last.say("topic", { topic: "t.x", epoch: "f", offset: 6 });
  for (const offset of [4, 5, 6, 7, 8]) Source.last.say("message", message("a", offset));
  assert.deepEqual(messages.slice(3), ["a e:7", "a e:8"]);

  // A WebSocket that opens takes over.
  Source.last.onerror();
  mock.timers.tick(10_000);
  Socket.last.open();
  assert.deepEqual(Socket.last.sent[0].topics, [{ topic: "a", epoch: "e", offset: 8 },
    { topic: "t.*", positions: { "t.x": { epoch: "f", offset: 6 } }, from: "earliest" }]);
  fanfare.close();
});

test("a stream begins with all that is kept when nobody knows where the WebSocket ended", async () => {
  const { fanfare, heard } = await begin({ webSocketAttempts: 1 });
  const messages = [];
  fanfare.subscribe("a", into(messages));
  fanfare.subscribe("b", into(messages));
  Socket.last.open();
  Socket.last.say(ack({ topic: "a", epoch: "e", offset: 2, replay: 1 }));
  Socket.last.say(message("a", 2));
  Socket.last.drop();
  const next = () => mock.timers.tick(10_000);
  next();
  Socket.last.drop();
  next();
  assert.equal(Source.last.url.search, "?topic=a&topic=b&from=earliest&heartbeat=15");
  // The network is back: the WebSocket, which used to work, has one more chance before its substitute.
  const sockets = Socket.all.length;
  Source.last.onopen();
  assert.deepEqual([Socket.all.length, fanfare.connection.transport], [sockets + 1, "websocket"]);
  Socket.last.drop();
  next();
  assert.equal(Source.last.url.search, "?topic=a&topic=b&from=earliest&heartbeat=15");
  Source.last.onopen();
  assert.equal(Socket.all.length, sockets + 1, "one");
  Source.last.say("subscribed", { topics: [
    { topic: "a", epoch: "e", offset: 4, replay: 4 }, { topic: "b", epoch: "g", offset: 3, replay: 3 }] }, "n:7");
  for (const offset of [1, 2, 3, 4]) Source.last.say("message", message("a", offset));
  for (const offset of [1, 2, 3]) Source.last.say("message", message("b", offset));
  assert.deepEqual(messages, ["a e:2", "a e:3", "a e:4", "b g:3"], "b asked for its last value");
  assert.deepEqual(heard, []);

  // An id that the gateway does not take any more is not shown to it for ever. A gateway that was not reached has not said so.
  const searches = [];
  for (const readyState of [CONNECTING, CONNECTING, CLOSED]) {
    Source.last.readyState = readyState;
    Source.last.onerror();
    next();
    Socket.last.drop();
    next();
    searches.push(Source.last.url.search);
  }
  const again = "?topic=a&topic=b&last_event_id=n%3A7&heartbeat=15";
  assert.deepEqual(searches, [again, again, "?topic=a&topic=b&from=earliest&heartbeat=15"]);
  fanfare.close();
});

test("without a place, a pattern's topics that were not there are news from their first message", async () => {
  const { fanfare } = await begin({ WebSocket: null });
  const messages = [];
  fanfare.subscribe("t.*", into(messages));
  fanfare.subscribe("u.*", { from: "live" }, into(messages));
  const begun = { topics: [{ topic: "t.*", matched: 1 }, { topic: "u.*", matched: 1 }] };
  await turn();
  Source.last.onopen();
  Source.last.say("subscribed", begun, "n:5");
  Source.last.say("topic", { topic: "t.old", epoch: "e", offset: 4 });
  Source.last.say("message", message("t.old", 4));
  Source.last.say("topic", { topic: "u.old", epoch: "e", offset: 1 });

  Source.last.readyState = CLOSED;
  Source.last.onerror();
  mock.timers.tick(10_000);
  assert.equal(Source.last.url.search, "?topic=t.*&topic=u.*&from=earliest&heartbeat=15");
  Source.last.onopen();
  Source.last.say("subscribed", begun, "n:9");
  for (const [topic, last] of [["t.old", 5], ["t.new", 3], ["u.older", 2]]) {
    Source.last.say("topic", { topic, epoch: "e", offset: last });
    for (let offset = 1; offset <= last; offset += 1) Source.last.say("message", message(topic, offset));
  }
  assert.deepEqual(messages, ["t.old e:4", "t.old e:5", "t.new e:1", "t.new e:2", "t.new e:3"]);
  fanfare.close();
});

test("over events a publish is a POST", async () => {
  const asked = [];
  const answers = [
    Response.json({ topic: "a", epoch: "e", offset: 9 }),
    Response.json({ error: { code: "too_large", message: "too long" } }, { status: 413 }),
    new Error("nobody is there"),
  ];
  const { fanfare } = await begin({
    WebSocket: null,
    fetch: async (url, { method, body, headers }) => {
      asked.push([method, url.pathname, body, headers]);
      const answer = answers.shift();
      if (answer instanceof Error) throw answer;
      return answer;
    },
  });
  assert.equal(fanfare.connection.state, "open", "there is no stream of nothing");
  assert.deepEqual(await fanfare.publish("a.b c", { x: 1 }, { key: "k", event: "said" }), { epoch: "e", offset: 9 });
  await assert.rejects(fanfare.publish("a", 1), { code: "too_large", message: "too long" });
  await assert.rejects(fanfare.publish("a", Uint8Array.of(1)), { code: "unknown_outcome" });
  assert.deepEqual(asked[0], ["POST", "/topics/a.b%20c", '{"x":1}',
    { "Content-Type": "application/json", "Fanfare-Key": "k", "Fanfare-Event": "said" }]);
  assert.equal(asked[2][3]["Content-Type"], "application/octet-stream");
  fanfare.close();
});

test("a topic that is wanted later joins the stream, and its last value is read", async () => {
  const asked = [];
  const { fanfare } = await begin({
    WebSocket: null,
    fetch: async (url) => {
      asked.push(url.href);
      return Response.json({ x: 1 }, { headers: { etag: '"g:40"' } });
    },
  });
  const messages = [];
  fanfare.subscribe("a", into(messages));
  await turn();
  Source.last.onopen();
  Source.last.say("subscribed", { topics: [{ topic: "a", epoch: "e", offset: 0 }] }, "n:1");
  fanfare.subscribe("b", into(messages));
  await turn();
  assert.equal(Source.all.length, 2);
  assert.equal(Source.last.url.search, "?topic=a&topic=b&last_event_id=n%3A1&heartbeat=15");
  Source.last.onopen();
  Source.last.say("subscribed",
    { topics: [{ topic: "a", epoch: "e", offset: 0 }, { topic: "b", epoch: "g", offset: 40 }] }, "n:1");
  await turn();
  Source.last.say("message", message("b", 41));
  assert.deepEqual(asked, ["http://gateway.test/topics/b"]);
  assert.deepEqual(messages, ["b g:40", "b g:41"]);
  fanfare.close();
});
