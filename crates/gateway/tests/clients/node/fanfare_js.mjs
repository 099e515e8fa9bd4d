// The module itself, from the gateway that serves it.

import { url } from "./client.mjs";

export const source = await (await fetch(`${url}/fanfare.js`)).text();

// Node takes a module over HTTP only as text.
export const { Fanfare, FanfareError, Position, matches, retryDelayMs } =
  await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);
