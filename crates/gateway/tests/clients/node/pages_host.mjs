// The pages of this folder's `pages`, on a host of their own, as most pages are.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

import { until } from "./client.mjs";

const types = { css: "text/css", html: "text/html" };
const host = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://host");
  try {
    const body = await readFile(new URL(`./pages${pathname}`, import.meta.url));
    response.writeHead(200, { "content-type": types[pathname.split(".").pop()] }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => host.listen(0, "127.0.0.1", resolve));
host.unref();

/** Where the pages are. */
export const origin = `http://127.0.0.1:${host.address().port}`;

/** A page that says its state and has a row for each message. */
export async function open(browser, name, parameters) {
  const page = await browser.newPage({ viewport: { width: 480, height: 520 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(`${origin}/${name}.html?${new URLSearchParams(parameters)}`);
  const state = () => page.locator("#state").textContent();
  return {
    name,
    errors,
    state,
    until: (what) => until(`${name} says ${what}`, async () => (await state()) === what),
    rows: () => page.locator("#rows tr").evaluateAll((rows) => rows.map((row) => row.innerText.split("\t"))),
    picture: (what) => page.screenshot({ path: `${process.env.FANFARE_ARTIFACTS}/${name}-${what}.png`, fullPage: true }),
  };
}
