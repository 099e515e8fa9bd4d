// `/events` for a gateway that has none yet: exact topics only, from its lines of JSON. It is not used where the gateway
// answers /events itself.

import { get } from "node:http";

import { url } from "./client.mjs";

export async function gatewayHasEvents() {
  const abort = new AbortController();
  const { status } = await fetch(`${url}/events?topic=probe`, { signal: abort.signal });
  abort.abort();
  return status === 200;
}

let sequence = 0;

export function eventsStandIn(incoming, answer) {
  const { pathname, searchParams } = new URL(incoming.url, url);
  if (pathname !== "/events") return false;
  answer.writeHead(200, { "content-type": "text/event-stream", "access-control-allow-origin": "*" });
  answer.write("retry: 2000\n:ok\n");
  serve(answer, searchParams.getAll("topic"), searchParams.has("last_event_id") ? "earliest" : "last");
  return true;
}

async function serve(answer, names, from) {
  const topics = await Promise.all(names.map(async (topic) => {
    const tag = (await fetch(`${url}/topics/${topic}`)).headers.get("etag");
    const [epoch, offset] = tag === null ? ["?", 0] : tag.slice(1, -1).split(":");
    return { topic, epoch, offset: Number(offset), replay: tag === null ? 0 : 1 };
  }));
  answer.write(`id: n:${sequence}\nevent: subscribed\ndata: ${JSON.stringify({ topics })}\n\n`);
  for (const topic of names) {
    const headers = { accept: "application/x-ndjson" };
    const stream = get(`${url}/topics/${topic}?from=${from}`, { headers }, (lines) => {
      let rest = "";
      lines.setEncoding("utf8");
      lines.on("data", (text) => {
        const whole = (rest + text).split("\n");
        rest = whole.pop();
        for (const line of whole) {
          if (line !== "") answer.write(`id: n:${sequence += 1}\ndata: ${line}\n\n`);
        }
      });
      lines.on("error", () => {});
    });
    stream.on("error", () => {});
    answer.on("close", () => stream.destroy());
  }
}
