// /fanfare.js in Node, with the WebSocket of ws: through a cut connection, each message once and in order.

import { WebSocket, expect, publish, until } from "./client.mjs";
import { CuttingProxy } from "./cutting_proxy.mjs";
import { Fanfare } from "./fanfare_js.mjs";

const proxy = await CuttingProxy.start();
const fanfare = new Fanfare(proxy.url, { WebSocket, backOffMaxMs: 200 });
const told = [];
for (const name of ["gap", "reset", "refused", "error"]) fanfare.on(name, (event) => told.push([name, event]));
const states = [];
fanfare.on("connection", ({ state }) => { if (state !== states.at(-1)) states.push(state); });
const got = [];
fanfare.subscribe("node.a", ({ topic, offset, epoch, data }) => got.push([topic, offset, epoch, data]));
await fanfare.ready();

// Its own publishes come back, in whatever shape; the first one only when the subscription has begun.
const { epoch } = await fanfare.publish("node.a", { price: "1.10" });
await fanfare.publish("node.a", "héé", { event: "said", key: "k" });
for (const number of [3, 4, 5]) await publish("node.a", String(number));
await until("five messages", () => got.length === 5);
expect("what came", got, [{ price: "1.10" }, "héé", 3, 4, 5].map((data, index) => ["node.a", index + 1, epoch, data]));

proxy.cut();
await until("the cut is noticed", () => fanfare.connection.state !== "open");
const rejected = await fanfare.publish("node.a", "never").catch((error) => error.code);
expect("a publish without a connection", rejected, "disconnected");
for (const number of [6, 7, 8, 9]) await publish("node.a", String(number));
expect("nothing came meanwhile", got.length, 5);
proxy.mend();
await fanfare.ready();
await publish("node.a", "10");
await until("the rest", () => got.length >= 10);
expect("each once and in order", got.map(([, offset]) => offset), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
expect("nothing was lost", told, []);
expect("the states begin and end", [...states.slice(0, 3), states.at(-1)], ["connecting", "open", "waiting", "open"]);

const refused = await fanfare.publish("bad topic", 1).catch((error) => error.code);
expect("a topic that is none", refused, "bad_topic");
const bytes = await fanfare.publish("node.bytes", Uint8Array.of(0, 255));
const back = await new Promise((resolve) => fanfare.subscribe("node.bytes", ({ data }) => resolve(data)));
expect("bytes by their own way", [bytes.offset, [...back]], [1, [0, 255]]);

fanfare.close();
expect("the end", fanfare.connection.state, "closed");
