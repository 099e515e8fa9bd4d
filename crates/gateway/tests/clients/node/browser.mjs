// Chromium, and what it complains of.

import { chromium } from "./client.mjs";

/** Runs `story` with a browser, which is closed whatever happens. */
export async function withBrowser(story) {
  const browser = await chromium.launch({
    executablePath: process.env.FANFARE_CHROMIUM,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  try {
    await story(browser);
  } finally {
    await browser.close();
  }
}

/** Errors and warnings of a page, as they come. Browsers ask for an icon by themselves, and gateways have none. */
export function complaintsOf(page) {
  const complaints = [];
  page.on("console", (message) => {
    if (message.location().url.endsWith("/favicon.ico")) return;
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  return complaints;
}
