// ws for Node: a topic's payloads, /ws, binary frames, pings, and the ends of a connection, polite and not.

import { once } from "node:events";

import { WebSocket, admin, expect, publish, until, ws } from "./client.mjs";

async function open(path, ...options) {
  const socket = new WebSocket(ws + path, ...options);
  socket.frames = [];
  socket.on("message", (data, isBinary) => socket.frames.push(isBinary ? data : data.toString()));
  await once(socket, "open");
  return socket;
}

async function next(socket) {
  while (socket.frames.length === 0) await once(socket, "message");
  return socket.frames.shift();
}

async function closes(reason) {
  const page = await (await fetch(`${admin}/metrics`)).text();
  return Number(page.match(new RegExp(`^fanfare_closes_total{reason="${reason}"} (.*)$`, "m"))[1]);
}

// Raw: payloads as they were posted.
await publish("node", '{"price": 1.10}');
const raw = await open("/topics/node");
expect("the last value", await next(raw), '{"price": 1.10}');
await publish("node", Buffer.from([0, 255]), "application/octet-stream");
expect("a binary frame", [...(await next(raw))], [0, 255]);
raw.send("text of its own");
expect("its own text", await next(raw), "text of its own");
raw.send(Buffer.from([1, 2, 3]));
expect("its own bytes", [...(await next(raw))], [1, 2, 3]);
raw.ping("are you there");
const [pong] = await once(raw, "pong");
expect("the pong", pong.toString(), "are you there");
raw.close(4001, "enough");
const [code] = await once(raw, "close");
expect("the code that came back", code, 4001);

// Native: many topics, by name.
const native = await open("/ws", "fanfare.v1.json");
expect("the subprotocol", native.protocol, "fanfare.v1.json");
expect("the first frame", JSON.parse(await next(native)).type, "welcome");
native.send(JSON.stringify({ type: "subscribe", id: 1, topics: ["node.a", "node.b"] }));
const ack = JSON.parse(await next(native));
expect("the acknowledgement", [ack.type, ack.id, ack.topics.map((topic) => topic.offset)], ["subscribed", 1, [0, 0]]);
await publish("node.b", "[1,2]");
await publish("node.a", "héé", "text/plain");
expect("one topic", await next(native), '{"topic":"node.b","offset":1,"data":[1,2]}');
expect("the other", JSON.parse(await next(native)), { topic: "node.a", offset: 1, data: "héé" });

// A client that just goes away is noticed.
const before = await closes("peer_gone");
native.terminate();
await until("the terminated connection is noticed", async () => (await closes("peer_gone")) === before + 1);

// A refused handshake is an HTTP answer.
const refused = new WebSocket(`${ws}/topics/a..b`);
refused.on("error", () => {}); // It comes after the answer, when the handshake is given up.
const [, response] = await once(refused, "unexpected-response");
expect("the status of what is no topic", response.statusCode, 400);
refused.terminate();
