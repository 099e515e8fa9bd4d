// What the stories share: the packages that were installed outside of the source tree, and saying what was expected.

import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";

const require = createRequire(`${process.env.FANFARE_NODE_MODULES}/`);
export const { WebSocket } = require("ws");
export const { chromium } = require("playwright-core");

export const url = process.env.FANFARE_URL;
export const ws = url.replace("http", "ws");
export const admin = process.env.FANFARE_ADMIN;

const PATIENCE_MS = 60_000;
setTimeout(() => { console.error("the story hangs"); process.exit(1); }, PATIENCE_MS).unref();

export function expect(what, actual, expected) {
  if (isDeepStrictEqual(actual, expected)) return;
  console.error(`${what}:\n  expected ${JSON.stringify(expected)}\n  got      ${JSON.stringify(actual)}`);
  throw new Error(what);
}

/** What is to be done to the wire (`process.env.FANFARE_WIRE`) and to the gateway behind it: see stage.rs. */
export async function stage(what) {
  console.log(`stage: ${what}`);
  const response = await fetch(`${process.env.FANFARE_STAGE}/${what}`, { method: "POST" });
  expect(`the stage's answer to ${what}`, response.status, 204);
}

export async function publish(topic, body, type = "application/json") {
  const response = await fetch(`${url}/topics/${topic}`, { method: "POST", body, headers: { "content-type": type } });
  expect(`the status of a publish to ${topic}`, response.status, 200);
  return response.json();
}

/** What the gateway counts under a name with its labels. */
export async function metric(name) {
  const page = await (await fetch(`${admin}/metrics`)).text();
  const row = page.split("\n").find((line) => line.startsWith(`${name} `));
  return Number(row.slice(name.length + 1));
}

export async function until(what, check) {
  console.log(`waiting: ${what}`);
  while (!(await check())) await new Promise((resolve) => setTimeout(resolve, 50));
}
