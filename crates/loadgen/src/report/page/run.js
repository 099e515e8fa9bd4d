// One run: its tiles and charts, and where the rest goes.

const OPEN_MAX = 4;

function section(run, at) {
  const { scenario = {}, target = {} } = run;
  const ends = report.knee && [report.knee.held?.run, report.knee.broke?.run].includes(at);
  const open = runs.length <= OPEN_MAX || state(run) !== "passed" || ends;
  return html(
    "details",
    { class: "run", id: `run-${at}`, open: open && "" },
    html(
      "summary",
      {},
      html("h2", {}, labelOf(run)),
      badge(state(run)),
      scenario.title && html("span", { class: "title" }, scenario.title),
    ),
    scenario.about && html("p", { class: "about" }, scenario.about),
    html("p", { class: "target" }, [target.adapter, target.server, target.url].filter(Boolean).join(" · ")),
    state(run) !== "passed" &&
      html(
        "ul",
        { class: "whys" },
        reasons(run).map((why) => html("li", {}, why)),
      ),
    run.cut_off &&
      html(
        "p",
        { class: "busy" },
        "Messages were still arriving when the run ended: what counts as lost may only be late.",
      ),
    tiles(run),
    html("div", { class: "charts" }, overTime(run), distribution(run), serverOverTime(run)),
    groupsOf(run),
    html(
      "div",
      { class: "columns" },
      delivery(run),
      connections(run),
      publishing(run),
      server(run),
      generator(run),
      settings(run),
    ),
  );
}

function tiles(run) {
  const { delivery = {}, connections = {}, latency_us: latency = {}, server } = run;
  const tile = (name, value, note, bad) =>
    html(
      "div",
      { class: bad ? "bad" : null },
      html("dt", {}, name),
      html("dd", {}, value, note && html("small", {}, note)),
    );
  return html(
    "dl",
    { class: "tiles" },
    tile("Delivered", perSecond(run.delivered_per_second), `to ${counted(connections.connected, "subscriber")}`),
    tile(
      "Latency, p99",
      latency.count ? micros(latency.p99) : NONE,
      latency.count ? `p50 ${micros(latency.p50)}` : "no message was timed",
    ),
    tile("Lost", count(delivery.lost), `of ${count(delivery.expected)} expected`, delivery.lost > 0),
    tile(
      "CPU per delivery",
      micros(server?.cpu_us_per_delivery),
      known(server?.cpu_share) ? `${share(server.cpu_share)} of a core` : "not measured",
    ),
    tile("Memory per connection", bytes(server?.resident_bytes_per_connection), memoryNote(server)),
  );
}

function memoryNote(server) {
  if (known(server?.kernel_socket_bytes_per_connection))
    return `and ${bytes(server.kernel_socket_bytes_per_connection)} in the kernel`;
  return known(server?.resident_bytes_per_connection) ? "of the process" : "not measured";
}

const TIME = { kind: "seconds", name: "Time" };

function overTime(run) {
  const series = run.series ?? [];
  if (!series.length) return [];
  const points = (name) => series.map((sample) => [sample.seconds, sample[name] ?? null]);
  const bands = stages(series);
  const publish = run.publish ?? {};
  const latency = run.latency_us?.count ? run.latency_us : {};
  const [p50, p99] = [points("p50_us"), points("p99_us")];
  const inWindow = series.filter((sample) => sample.stage === "window");
  const lossy = series.some((sample) => sample.lost > 0);
  return [
    chart({
      title: "Delivered",
      note: "messages/s, all subscribers",
      x: TIME,
      y: { kind: "number", suffix: "/s", text: perSecond },
      bands,
      lines: [
        { name: "delivered", points: points("delivered_per_second"), rest: perSecond(run.delivered_per_second) },
      ],
    }),
    chart({
      title: "Published",
      note: "messages/s",
      x: TIME,
      y: { kind: "number", suffix: "/s", text: perSecond },
      bands,
      lines: [
        {
          name: "published",
          points: points("published_per_second"),
          rest: inWindow.length ? perSecond(publish.achieved_per_second) : "",
        },
      ],
    }),
    chart({
      title: "Latency",
      note: "from when a message was due",
      x: TIME,
      y: { kind: "micros", log: spread(p50, p99) > 20 },
      bands,
      gather: "max",
      lines: [
        { name: "p50", points: p50, rest: micros(latency.p50) },
        { name: "p99", points: p99, rest: micros(latency.p99) },
      ],
    }),
    lossy &&
      chart({
        title: "Missing",
        note: "messages older than the newest that had not come",
        x: TIME,
        y: { kind: "number", text: count },
        bands,
        gather: "max",
        lines: [{ name: "missing", points: points("lost"), rest: count(run.delivery?.lost) }],
      }),
  ];
}

/** The stages as bands; all but the window are shaded. */
function stages(series) {
  const bands = [];
  for (const { stage = "", seconds: at } of series) {
    const last = bands.at(-1);
    if (last && last.name === stage) last.to = at;
    else bands.push({ from: last?.to ?? 0, to: at, name: stage, shaded: stage !== "window" });
  }
  return bands;
}

const PERCENTILES = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999];
const fractions = new Intl.NumberFormat("en-US", { maximumFractionDigits: 7 });
const percent = (part) => `${fractions.format(part * 100)}%`;

function distribution(run) {
  const groups = (run.groups ?? []).length > 1 ? run.groups.slice(0, 4) : [];
  const sources = [[groups.length ? "all" : "latency", run], ...groups.map((group) => [group.name, group])];
  const lines = sources.map(([name, source]) => ({
    name,
    points: curve(source.latency_distribution),
    rest: groups.length ? "" : undefined,
  }));
  if (!lines.some((line) => line.points.length)) return null;
  const ticks = (low, high, most) => {
    const tens = [1, ...Array.from({ length: 9 }, (_, at) => 10 ** (at + 1))].filter(
      (value) => value <= high * 1.001,
    );
    const every = Math.ceil(tens.length / most);
    return tens.filter((_, at) => at % every === 0).map((value) => ({ value, label: percent(1 - 1 / value) }));
  };
  const heads = ["Percentile", ...lines.map((line) => line.name)];
  const rows = PERCENTILES.map((part) => [
    percent(part),
    ...sources.map(([, source]) => micros(quantile(source.latency_distribution, part))),
  ]);
  rows.push([
    "max",
    ...sources.map(([, source]) => (source.latency_us?.count ? micros(source.latency_us.max) : NONE)),
  ]);
  const all = lines.flatMap((line) => line.points);
  return chart({
    title: "Latency by percentile",
    note: "in the window",
    lines,
    cells: { heads, rows },
    x: { kind: "number", name: "Percentile", log: true, ticks, text: (value) => percent(1 - 1 / value) },
    y: { kind: "micros", log: spread(all) > 20 },
  });
}

/** The quantile function of a distribution, over 1/(1-p). The greatest of n is drawn at p = 1 - 1/n. */
function curve(distribution) {
  const total = (distribution ?? []).reduce((sum, step) => sum + step.count, 0);
  let seen = 0;
  return (distribution ?? []).flatMap((step, at) => {
    const before = seen;
    seen += step.count;
    const start = at === 0 ? [[1, step.up_to_us]] : [];
    return [
      ...start,
      [seen < total ? total / (total - seen) : Math.max(total, total / (total - before)), step.up_to_us],
    ];
  });
}

function quantile(distribution, part) {
  const total = (distribution ?? []).reduce((sum, step) => sum + step.count, 0);
  let seen = 0;
  if (total * (1 - part) < 1) return null;
  return (distribution ?? []).find((step) => (seen += step.count) >= part * total)?.up_to_us ?? null;
}

function serverOverTime(run) {
  const series = run.series ?? [];
  const has = (name) => series.some((sample) => known(sample[name]));
  const bands = stages(series);
  const one = (title, note, name, y, rest) =>
    has(name) &&
    chart({
      title,
      note,
      x: TIME,
      y,
      bands,
      lines: [{ name: "server", points: series.map((sample) => [sample.seconds, sample[name] ?? null]), rest }],
    });
  return [
    one("Server CPU", "of one core", "server_cpu_share", { kind: "share" }, share(run.server?.cpu_share)),
    one(
      "Server memory",
      "resident",
      "server_resident_bytes",
      { kind: "bytes" },
      bytes(run.server?.resident_bytes_connected),
    ),
  ];
}
