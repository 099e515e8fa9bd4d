// Numbers for people, with their units; and elements, whose texts are never read as HTML.

const NONE = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);
const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en-US", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const brief = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });

/** Three significant digits, or all of those before the point. */
function digits(value) {
  if (value === 0) return "0";
  return Math.abs(value) >= 99.95 ? grouped.format(value) : precise.format(value);
}

/** The units of one kind of value, from the smallest: the first is what the report counts in. */
const UNITS = {
  micros: [
    [1, "µs"],
    [1e3, "ms"],
    [1e6, "s"],
  ],
  bytes: [
    [1, "B"],
    [1024, "KiB"],
    [1024 ** 2, "MiB"],
    [1024 ** 3, "GiB"],
  ],
  seconds: [
    [1, "s"],
    [60, "min"],
    [3600, "h"],
  ],
  share: [[0.01, "%"]],
  number: [
    [1, ""],
    [1e3, "k"],
    [1e6, "M"],
  ],
};

/** The largest unit that `value` has at least one of. */
function unitOf(kind, value) {
  return UNITS[kind].findLast(([size]) => Math.abs(value) >= size) ?? UNITS[kind][0];
}

function quantity(kind, value, format = digits) {
  if (!known(value)) return NONE;
  const [size, name] = unitOf(kind, value);
  return worded(value / size, name, format);
}

/** A number and its unit are not parted at the end of a line. */
const worded = (value, unit, format) => format(value) + (["", "%", "k", "M"].includes(unit) ? unit : `\u00a0${unit}`);

const micros = (value) => quantity("micros", value);
const bytes = (value) => quantity("bytes", value);
const share = (value) => quantity("share", value);
const seconds = (value) => (known(value) ? worded(value, "s", brief.format) : NONE);
const count = (value) => (known(value) ? grouped.format(value) : NONE);
const perSecond = (value) => (known(value) ? `${value < 100 ? brief.format(value) : grouped.format(value)}/s` : NONE);

/** `1 message`, `2 messages`. */
function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** Counts by label, the greatest first: `4101 (2), end of stream (1)`. */
function labelled(counts) {
  const rows = Object.entries(counts ?? {}).sort((a, b) => b[1] - a[1]);
  return rows.length ? rows.map(([label, value]) => `${label} (${count(value)})`).join(", ") : "none";
}

function make(namespace, name, attributes, children) {
  const element = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** An HTML element; strings among its children become text. */
const html = (name, attributes, ...children) => make("http://www.w3.org/1999/xhtml", name, attributes, children);
const svg = (name, attributes, ...children) => make("http://www.w3.org/2000/svg", name, attributes, children);

/**
 * A table of texts; the first cell of a row is its heading. `groups` is a row above the heads: [text, columns]. On a
 * narrow screen each row is a block, and a cell is named by its head.
 */
function table(caption, heads, rows, { groups, wide = false } = {}) {
  const head = (text, attributes) => html("th", { scope: "col", role: "columnheader", ...attributes }, text);
  const row = (cells) =>
    html(
      "tr",
      { role: "row" },
      cells.map((cell, at) => {
        const label = groups ? nameInGroup(groups, heads, at) : heads[at];
        return at === 0
          ? html("th", { scope: "row", role: "rowheader" }, cell)
          : html("td", { role: "cell", "data-label": label }, cell);
      }),
    );
  return html(
    "div",
    { class: wide ? "scroll wide" : "scroll" },
    html(
      "table",
      { role: "table" },
      html("caption", {}, caption),
      html(
        "thead",
        { role: "rowgroup" },
        groups &&
          html(
            "tr",
            { role: "row" },
            groups.map(([text, columns]) => head(text, { colspan: columns, scope: "colgroup" })),
          ),
        html(
          "tr",
          { role: "row" },
          heads.map((text) => head(text)),
        ),
      ),
      html("tbody", { role: "rowgroup" }, rows.map(row)),
    ),
  );
}

function nameInGroup(groups, heads, at) {
  let end = 0;
  const group = groups.find(([, columns]) => (end += columns) > at);
  return group?.[2] ? `${group[2]} ${heads[at]}` : heads[at];
}

/** Names and values, those without a value left out. */
function facts(rows) {
  return html(
    "dl",
    { class: "facts" },
    rows.filter(Boolean).map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))),
  );
}
