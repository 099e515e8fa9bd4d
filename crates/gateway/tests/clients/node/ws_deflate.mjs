// ws for Node under permessage-deflate, which it offers by itself.

import { once } from "node:events";

import { WebSocket, expect, publish, ws } from "./client.mjs";

const book = JSON.stringify(Array.from({ length: 100 }, (_, number) => [`64000.${number}`, "0.5"]));

async function open(path, options) {
  const socket = new WebSocket(ws + path, options);
  socket.frames = [];
  socket.on("message", (data) => socket.frames.push(data.toString()));
  await once(socket, "open");
  return socket;
}

async function next(socket) {
  while (socket.frames.length === 0) await once(socket, "message");
  return socket.frames.shift();
}

/** What came over the wire meanwhile, in bytes. */
async function bytesOf(socket, story) {
  const before = socket._socket.bytesRead;
  await story();
  return socket._socket.bytesRead - before;
}

for (const options of [{}, { perMessageDeflate: { threshold: 0, serverMaxWindowBits: 12 } }, { perMessageDeflate: { threshold: 0, clientMaxWindowBits: 10 } }]) {
  const raw = await open("/topics/z.node?from=live", options);
  expect("what was negotiated", Object.keys(raw._extensions), ["permessage-deflate"]);
  raw.send("one"); // What comes back says that the subscription has begun.
  expect("its own text", await next(raw), "one");
  const bytes = await bytesOf(raw, async () => {
    await publish("z.node", book);
    expect("the message", await next(raw), book);
  });
  if (bytes > book.length / 3) throw new Error(`${bytes} bytes for ${book.length}`);
  raw.send(book);
  expect("its own message", await next(raw), book);
  raw.send(book.slice(0, 50), { fin: false });
  raw.send(book.slice(50), { fin: true });
  expect("its own message, in fragments", await next(raw), book);
  raw.close();
  await once(raw, "close");
}

const native = await open("/ws");
expect("the first frame", JSON.parse(await next(native)).type, "welcome");
native.send(JSON.stringify({ type: "subscribe", id: 1, topics: ["z.a", "plain"], filler: "x".repeat(5000) }));
expect("the acknowledgement", JSON.parse(await next(native)).type, "subscribed");
await publish("z.a", book);
expect("a compressed topic", await next(native), `{"topic":"z.a","offset":1,"data":${book}}`);
await publish("plain", book);
expect("another", await next(native), `{"topic":"plain","offset":1,"data":${book}}`);
native.close();
await once(native, "close");

const without = await open("/topics/z.node?from=last", { perMessageDeflate: false });
expect("what was negotiated without an offer", without.extensions, "");
expect("the message", await next(without), book);
without.terminate();
