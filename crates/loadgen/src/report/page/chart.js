// Line charts. A chart is drawn at the width it has, and again when that changes; what it shows is in a table below it.

const HEIGHT = 236;
const MARGIN = { top: 22, right: 14, bottom: 30, mark: 42 };
const ROWS_MAX = 200;
/** With more points than that, dashes would look like values. */
const DENSE = 150;
let charts = 0;

/**
 * `lines`: [{name, points: [[x, y or null], …], dots, rest}], x rising; `rest` is what the legend says when nobody points
 * at the chart. `x` and `y`: {kind, name, log, ticks}. `bands`: [{from, to, name, shaded}]. `bound`: {y, name}.
 * `marks`: [{x, name, bad}], a bad one to the right of the others. `gather`: how many points become one, where there are more than pixels.
 */
function chart({ title, note, lines, x, y, bands = [], bound, marks = [], gather = "mean", cells }) {
  lines = lines.filter((line) => line.points.some(([, value]) => known(value)));
  const id = `chart-${++charts}`;
  const values = lines.map((line) => html("span", { class: "value" }, line.rest ?? ""));
  const at = html("span", { class: "at" });
  const legend = html(
    "p",
    { class: "legend" },
    lines.map((line, index) => html("span", { class: `key line-${index}` }, line.name, " ", values[index])),
    at,
  );
  const stage = html("div", { class: "stage" });
  const figure = html(
    "figure",
    { class: "chart" },
    html("figcaption", {}, title, note && html("small", {}, note)),
    legend,
    stage,
  );
  if (!lines.length) {
    legend.remove();
    stage.append(html("p", { class: "empty" }, "Nothing was measured."));
    return figure;
  }
  const parts = { id, title, lines, x, y, bands, bound, marks, gather };
  let drawn = 0;
  const redraw = () => {
    const width = Math.round(stage.clientWidth);
    if (width === 0 || width === drawn) return;
    drawn = width;
    const drawing = draw(parts, width);
    stage.replaceChildren(drawing.element);
    follow(drawing, { lines, x, y, values, at });
  };
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(stage);
  figure.append(behind(title, lines, x, y, cells));
  return figure;
}

function draw({ id, title, lines, x, y, bands, bound, marks, gather }, width) {
  const ys = axis(
    y,
    lines
      .flatMap((line) => line.points.map((point) => point[1]))
      .concat(bound?.y ?? [])
      .filter(known),
    4,
  );
  const left = 14 + 6.4 * Math.max(...ys.ticks.map((tick) => tick.label.length));
  const [right, bottom] = [width - (marks.length ? MARGIN.mark : MARGIN.right), HEIGHT - MARGIN.bottom];
  const xs = axis(
    { ...x, tight: true },
    lines.flatMap((line) => line.points.map((point) => point[0])),
    Math.max(2, Math.floor((right - left) / 62)),
  );
  const px = (value) => left + xs.place(value) * (right - left);
  const py = (value) => bottom - ys.place(value) * (bottom - MARGIN.top);
  const fewer = lines.map((line) => thinned(line.points, Math.max(40, Math.floor(right - left)), gather));
  const element = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-labelledby": `${id}-title ${id}-about` },
    svg("title", { id: `${id}-title` }, title),
    svg("desc", { id: `${id}-about` }, about(lines, y)),
    bands.map(({ from, to, name, shaded }) => {
      const [a, b] = [Math.max(left, px(from)), Math.min(right, px(to))];
      return [
        shaded &&
          svg("rect", {
            class: "shade",
            x: a,
            y: MARGIN.top,
            width: Math.max(0, b - a),
            height: bottom - MARGIN.top,
          }),
        b - a > name.length * 6 + 4 &&
          svg("text", { class: "band", x: (a + b) / 2, y: MARGIN.top - 7, "text-anchor": "middle" }, name),
      ];
    }),
    ys.ticks.map(({ value, label }) => [
      svg("line", { class: "grid", x1: left, x2: right, y1: py(value), y2: py(value) }),
      svg("text", { class: "tick", x: left - 8, y: py(value) + 3.5, "text-anchor": "end" }, label),
    ]),
    xs.ticks.map(({ value, label }) => {
      const place = px(value);
      const anchor = place > right - 16 ? "end" : place < left + 8 ? "start" : "middle";
      return svg("text", { class: "tick", x: place, y: bottom + 18, "text-anchor": anchor }, label);
    }),
    svg("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }),
    bound && [
      svg("line", { class: "bound", x1: left, x2: right, y1: py(bound.y), y2: py(bound.y) }),
      svg("text", { class: "band", x: left + 6, y: py(bound.y) - 6 }, bound.name),
    ],
    marks.map(({ x: value, name, bad }) => [
      svg("line", {
        class: bad ? "mark-line bad" : "mark-line",
        x1: px(value),
        x2: px(value),
        y1: MARGIN.top,
        y2: bottom,
      }),
      svg(
        "text",
        {
          class: bad ? "band bad" : "band",
          x: px(value) + (bad ? -2 : 2),
          y: MARGIN.top - 7,
          "text-anchor": bad ? "start" : "end",
        },
        name,
      ),
    ]),
    fewer.map((points, index) => [
      svg("path", { class: `line line-${index}${points.length > DENSE ? " dense" : ""}`, d: path(points, px, py) }),
      lines[index].dots &&
        points
          .filter((point) => known(point[1]))
          .map((point) => svg("circle", { class: `dot line-${index}`, cx: px(point[0]), cy: py(point[1]), r: 3.2 })),
    ]),
    svg("line", { class: "pointer", y1: MARGIN.top, y2: bottom, visibility: "hidden" }),
  );
  return { element, fewer, px, left, right, width };
}

function path(points, px, py) {
  let [text, pen] = ["", "M"];
  for (const [x, y] of points) {
    if (known(y)) {
      text += `${pen}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
      pen = "L";
    } else {
      pen = "M";
    }
  }
  return text;
}

/** The values under the pointer, in the legend. */
function follow({ element, fewer, px, left, right, width }, { lines, x, y, values, at }) {
  const pointer = element.querySelector(".pointer");
  element.addEventListener("pointermove", (event) => {
    const box = element.getBoundingClientRect();
    const place = Math.min(right, Math.max(left, ((event.clientX - box.left) / box.width) * width));
    const nearest = fewer.map((points) =>
      points.reduce(
        (best, point) =>
          known(point[1]) && (!best || Math.abs(px(point[0]) - place) < Math.abs(px(best[0]) - place)) ? point : best,
        null,
      ),
    );
    const point = nearest.find(Boolean);
    pointer.setAttribute("visibility", "visible");
    pointer.setAttribute("x1", px(point[0]));
    pointer.setAttribute("x2", px(point[0]));
    at.textContent = text(x, point[0]);
    nearest.forEach((found, index) => (values[index].textContent = found ? text(y, found[1]) : NONE));
  });
  element.addEventListener("pointerleave", () => {
    pointer.setAttribute("visibility", "hidden");
    at.textContent = "";
    lines.forEach((line, index) => (values[index].textContent = line.rest ?? ""));
  });
}

const text = (axis, value) => axis.text?.(value) ?? `${quantity(axis.kind, value)}${axis.suffix ?? ""}`;

/** Where values lie between 0 and 1, and the ticks. */
function axis({ kind, log, ticks, suffix = "", tight }, values, ticksMax) {
  let low = values.reduce((a, b) => Math.min(a, b), Infinity);
  let high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (log) {
    low = Math.max(low, 1e-9);
    high = Math.max(high, low * 1.01);
    if (!ticks) {
      low = stepsOfTen(low / 10, low).findLast((step) => step <= low) ?? low;
      high = stepsOfTen(high, high * 10).find((step) => step >= high) ?? high;
    }
    const place = (value) => Math.log(Math.max(value, low) / low) / Math.log(high / low);
    return { place, ticks: ticks?.(low, high, ticksMax) ?? logTicks(kind, low, high, ticksMax, suffix) };
  }
  low = Math.min(0, low);
  if (high <= low) high = low + (kind === "share" ? 0.01 : 1);
  const [size, name] = unitOf(kind, high);
  const step = niceStep((high - low) / size / ticksMax) * size;
  if (!tight) high = Math.ceil(high / step - 1e-9) * step;
  const found = [];
  for (let at = Math.trunc(low / step); at * step <= high * (1 + 1e-9) && found.length < 50; at++) {
    found.push({
      value: at * step,
      label: worded((at * step) / size, at === 0 && kind === "number" ? "" : name, brief.format) + suffix,
    });
  }
  return { place: (value) => (value - low) / (high - low), ticks: found };
}

/** 1, 2 or 5 times a power of ten, not below `step`. */
function niceStep(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return ([1, 2, 5].find((factor) => factor * power >= step * (1 - 1e-9)) ?? 10) * power;
}

/** 1, 2 and 5 times each power of ten around `low` to `high`. */
function stepsOfTen(low, high) {
  const steps = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    steps.push(...[1, 2, 5].map((factor) => factor * 10 ** power));
  }
  return steps;
}

function logTicks(kind, low, high, ticksMax, suffix) {
  const inside = (steps) => steps.filter((step) => step >= low * 0.999 && step <= high * 1.001);
  const tens = inside(stepsOfTen(low, high).filter((_, index) => index % 3 === 0));
  const steps = tens.length > 2 ? tens : inside(stepsOfTen(low, high));
  const every = Math.ceil(steps.length / (ticksMax + 3));
  return steps
    .filter((_, index) => index % every === 0)
    .map((value) => ({ value, label: quantity(kind, value, brief.format) + suffix }));
}

/** At most `most` points: of each bucket the mean or the greatest. */
function thinned(points, most, gather) {
  if (points.length <= most) return points;
  const size = points.length / most;
  return Array.from({ length: most }, (_, at) => {
    const part = points.slice(Math.floor(at * size), Math.floor((at + 1) * size));
    const found = part.map((point) => point[1]).filter(known);
    const value = gather === "max" ? Math.max(...found) : found.reduce((a, b) => a + b, 0) / found.length;
    return [part[0][0], found.length ? value : null];
  });
}

function about(lines, y) {
  return lines
    .map((line) => {
      const found = line.points.map((point) => point[1]).filter(known);
      const [low, high] = [found.reduce((a, b) => Math.min(a, b)), found.reduce((a, b) => Math.max(a, b))];
      return `${line.name}: from ${text(y, low)} to ${text(y, high)}.`;
    })
    .join(" ");
}

/** The table behind a chart, made when it is first opened. */
function behind(title, lines, x, y, cells) {
  const details = html("details", { class: "numbers" }, html("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const every = Math.ceil(lines[0].points.length / ROWS_MAX);
    const rows =
      cells?.rows ??
      lines[0].points
        .map((_, at) => at)
        .filter((at) => at % every === 0)
        .map((at) => [
          text(x, lines[0].points[at][0]),
          ...lines.map((line) => (known(line.points[at]?.[1]) ? text(y, line.points[at][1]) : NONE)),
        ]);
    const caption = every > 1 && !cells ? `${title}: one sample of ${count(every)}` : title;
    details.append(table(caption, cells?.heads ?? [x.name, ...lines.map((line) => line.name)], rows));
  });
  return details;
}
