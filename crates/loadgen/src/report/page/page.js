// The page of a report: verdict, all runs in a table, the knee, each run, how it was measured.

/** What is null in the report is not there on the page: one kind of nothing. */
const report = JSON.parse(document.getElementById("report").textContent, (_, value) => value ?? undefined);
const runs = report.runs ?? [];
/** Of a knee, whose runs are in the order of their rates: from the first step that broke on, all but those that are partial. */
const broke = (run) => report.knee?.broke && runs.indexOf(run) >= report.knee.broke.run && !run.partial;
const state = (run) =>
  broke(run) ? "broke" : run.problems?.length ? "failed" : run.partial ? "partial" : "passed";
const WORDS = { passed: report.knee ? "Held" : "Passed", failed: "Failed", partial: "Partial", broke: "Broke" };
const badge = (kind) => html("span", { class: `badge ${kind}` }, WORDS[kind]);
const nameOf = (run) => run.scenario?.name ?? "run";
const rateOf = (run) => perSecond(run.publish?.asked_per_second);

/** The name of a run, with what tells it from the others of its name. */
function labelOf(run) {
  if (report.knee) return `step ${runs.indexOf(run) + 1} (${rateOf(run)})`;
  const namesakes = runs.filter((other) => nameOf(other) === nameOf(run));
  const differ = (pick) => namesakes.some((other) => pick(other) !== pick(run));
  const adapter = (of) => of.target?.adapter ?? "";
  return nameOf(run) + (differ(adapter) ? `, ${adapter(run)}` : "") + (differ(rateOf) ? ` at ${rateOf(run)}` : "");
}

/** How it all went. Steps that broke were meant to. */
function outcome() {
  if (runs.some((run) => state(run) === "failed")) return "failed";
  if (report.partial || !runs.length || runs.some((run) => run.partial)) return "partial";
  if (report.knee) return report.knee.held ? "passed" : "failed";
  return report.passed === false ? "failed" : "passed";
}

function verdict() {
  const kind = outcome();
  const held = kind === "passed" && report.knee?.held;
  const whys = [
    report.partial && ["Not whole", null, report.partial],
    ...runs.map((run, at) => state(run) !== "passed" && [labelOf(run), at, reasons(run).join("; ")]),
  ].filter(Boolean);
  const why = ([name, at, text]) =>
    html("li", {}, at === null ? html("b", {}, name) : html("a", { href: `#run-${at}` }, name), " ", text);
  return html(
    "section",
    { class: `verdict ${kind}` },
    html("h1", {}, held ? `Held ${count(held.rate)} messages/s` : WORDS[kind]),
    report.knee && html("p", { class: "lead" }, bend()),
    html("p", { class: "lead" }, told(kind)),
    whys.length > 0 && html("ul", { class: "whys" }, whys.map(why)),
    bounds(),
  );
}

function told(kind) {
  const those = (wanted) => runs.filter((run) => state(run) === wanted);
  const [failed, partial] = [those("failed").length, those("partial").length];
  const of = runs.length === 1 ? "The run" : `${failed} of ${runs.length} runs`;
  if (!runs.length) return "No run was made.";
  if (failed) return `${of} failed${partial ? `, ${partial} ${partial === 1 ? "is" : "are"} partial` : ""}.`;
  if (kind === "failed") return report.knee ? "Begin with a lower rate to find one that does." : "The run failed.";
  if (kind === "partial") return "Nothing went wrong in what was measured, but not all of it was.";
  const held = those("passed");
  if (held.length < runs.length) return `${held.length} of ${runs.length} steps held: ${arrived(held)}`;
  return `${runs.length === 1 ? "The run" : `All ${runs.length} runs`} passed: ${arrived(runs)}`;
}

function bounds() {
  const busy = runs.filter((run) => run.generator?.was_bottleneck);
  if (!busy.length) return null;
  const all = runs.length === 1 ? "this run" : "every run";
  return html(
    "p",
    { class: "busy" },
    html("b", {}, "Lower bounds. "),
    `In ${busy.length === runs.length ? all : list(busy.map(labelOf))} the generator itself was at its limit: `,
    "what is shown there is the least that the server can do.",
  );
}

const reasons = (run) => [...(run.problems ?? []), run.partial && `partial: ${run.partial}`].filter(Boolean);

function arrived(those) {
  const sum = (name) => those.reduce((total, run) => total + (run.delivery?.[name] ?? 0), 0);
  const [lost, conflated, gaps] = [sum("lost"), sum("conflated"), sum("gap_messages")];
  const told = [
    `${counted(sum("delivered"), "message")} arrived`,
    sum("repeated") + sum("out_of_order") === 0 && "once and in order",
    lost ? `${count(lost)} lost` : "none lost",
  ].filter(Boolean);
  const beside = [
    conflated && `; ${counted(conflated, "message")} gave way to newer ones, as asked`,
    gaps && `; ${counted(gaps, "message")} were announced as gaps`,
  ].filter(Boolean);
  return `${told.join(", ")}${beside.join("")}.`;
}

/** What the search for the knee found. */
function bend() {
  const { held, broke, bounds } = report.knee;
  const kept = boundsOf(bounds) && `with ${boundsOf(bounds)}`;
  const cost = known(held?.cpu_us_per_delivery) && `at ${micros(held.cpu_us_per_delivery)} of the server's CPU each,`;
  const words = held
    ? [`At ${count(held.rate)} messages/s:`, `${count(held.delivered_per_second)} deliveries/s`, cost, kept]
    : ["No step held", kept];
  const end = broke ? `The next step did not hold: ${broke.why}.` : "No step broke it.";
  return `${words.filter(Boolean).join(" ")}. ${end}`;
}

function boundsOf(bounds) {
  const told = Object.entries(bounds ?? {})
    .filter(([, value]) => known(value))
    .map(([name, value]) =>
      name.endsWith("_us")
        ? `${name.slice(0, -3).replace("p99_9", "p99.9")}\u00a0≤\u00a0${quantity("micros", value, brief.format)}`
        : value === 0
          ? `nothing ${name.replaceAll("_", " ")}`
          : `${name}\u00a0≤\u00a0${count(value)}`,
    );
  return list(told);
}

function summary() {
  const heads = [
    "Run",
    "Result",
    "Sub­scribers",
    "Messages/s",
    "Deliveries/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "lost",
    "re­peated",
    "out of order",
    "gaps",
    "con­flated",
    "per delivery",
    "process",
    "kernel",
    "Gen­erator",
  ];
  const groups = [
    ["", 5],
    ["Latency", 5, "Latency"],
    ["Messages", 5],
    ["CPU", 1, "CPU"],
    ["Memory per connection", 2, "Memory,"],
    ["", 1],
  ];
  const rows = runs.map((run, at) => {
    const { delivery = {}, server, generator } = run;
    const quantiles = run.latency_us?.count ? run.latency_us : {};
    const bad = (value) => (value > 0 ? html("b", { class: "bad" }, count(value)) : count(value));
    return [
      html("a", { href: `#run-${at}` }, report.knee ? `step ${at + 1}` : labelOf(run)),
      badge(state(run)),
      count(run.connections?.asked),
      count(run.publish?.asked_per_second),
      count(run.delivered_per_second),
      ...["p50", "p90", "p99", "p99_9", "max"].map((name) => micros(quantiles[name])),
      bad(delivery.lost),
      bad(delivery.repeated),
      bad(delivery.out_of_order),
      count(delivery.gaps),
      count(delivery.conflated),
      micros(server?.cpu_us_per_delivery),
      bytes(server?.resident_bytes_per_connection),
      bytes(server?.kernel_socket_bytes_per_connection),
      generator?.was_bottleneck ? html("b", { class: "warn" }, "busy") : known(generator?.cpu_share) ? "free" : NONE,
    ];
  });
  return html(
    "section",
    { class: "summary" },
    html("h2", {}, runs.length === 1 ? "The run" : report.knee ? "The steps" : "The runs"),
    table("What each run delivered, how late, and what it cost", heads, rows, { groups, wide: true }),
    runs.some((run) => run.generator?.was_bottleneck) &&
      html(
        "p",
        { class: "note" },
        "Where the generator was busy, the figures are lower bounds of what the server can do.",
      ),
  );
}

function knee() {
  const { knee } = report;
  if (!knee || runs.length < 2) return null;
  const rates = runs.map((run) => run.publish?.asked_per_second);
  const log = Math.min(...rates) > 0 && Math.max(...rates) / Math.min(...rates) > 8;
  const x = { kind: "number", name: "Messages per second", log, suffix: "/s", text: perSecond };
  const points = (pick) => runs.map((run, at) => [rates[at], pick(run) ?? null]);
  const marks = [
    knee.held && { x: knee.held.rate, name: "held" },
    knee.broke && { x: rates[knee.broke.run], name: "broke", bad: true },
  ].filter((mark) => mark && known(mark.x));
  const p99 = points((run) => (run.latency_us?.count ? run.latency_us.p99 : null));
  const bound = knee.bounds?.p99_us;
  const one = (title, name, values, y, more) =>
    chart({ title, lines: [{ name, points: values, dots: true }], x, y, marks, ...more });
  return html(
    "section",
    {},
    html("h2", {}, "Where it bends"),
    html(
      "div",
      { class: "charts three" },
      one(
        "Deliveries per second",
        "delivered",
        points((run) => run.delivered_per_second),
        { kind: "number", suffix: "/s", text: perSecond },
      ),
      one(
        "CPU per delivery",
        "server",
        points((run) => run.server?.cpu_us_per_delivery),
        { kind: "micros" },
      ),
      one(
        "Latency",
        "p99",
        p99,
        { kind: "micros", log: spread(p99) > 20 },
        known(bound) && { bound: { y: bound, name: `bound ${quantity("micros", bound, brief.format)}` } },
      ),
    ),
  );
}

/** How many times the least is in the greatest. */
function spread(...lines) {
  const found = lines
    .flat()
    .map((point) => point[1])
    .filter((value) => value > 0);
  return found.reduce((a, b) => Math.max(a, b), 0) / found.reduce((a, b) => Math.min(a, b), Infinity);
}

function method() {
  const { machine, command = [] } = report;
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${String(word).replaceAll("'", "'\\''")}'`);
  const terms = [
    [
      "Latency",
      "from when a message was due to be sent, by the schedule, to when a subscriber had read it; so a server that falls behind cannot hide it.",
    ],
    [
      "Lost",
      "messages that were acknowledged and did not reach a subscriber that should have had them. Gaps that the server announced and messages that newer ones replaced on purpose are counted apart.",
    ],
    ["CPU per delivery", "CPU time of the server's process in the window, by the messages delivered in it."],
    ["p99", "99 of 100 messages were at least as quick."],
    ["Lower bounds", "the generator had no time left, so it is not known that the server could not have done more."],
  ];
  return html(
    "section",
    { class: "method" },
    html("h2", {}, "How it was measured"),
    html(
      "div",
      { class: "columns" },
      part(
        "Machine and versions",
        facts([
          machine?.cpu && ["Processor", machine.cpu],
          known(machine?.cores) && ["Cores", count(machine.cores)],
          known(machine?.memory_bytes) && ["Memory", bytes(machine.memory_bytes)],
          machine?.kernel && ["Kernel", machine.kernel],
          ["Generator", `${report.tool ?? "fanfare-load"} ${report.version ?? ""}`],
          report.started && ["Started", report.started],
          report.schema && ["Report", report.schema],
        ]),
      ),
      html(
        "section",
        { class: "part double" },
        html("h3", {}, "Words"),
        html(
          "dl",
          { class: "terms" },
          terms.map(([term, meaning]) => html("div", {}, html("dt", {}, term), html("dd", {}, meaning))),
        ),
      ),
      command.length > 0 &&
        html(
          "section",
          { class: "part whole" },
          html("h3", {}, "Command"),
          html("pre", { tabindex: "0" }, `fanfare-load ${command.map(quoted).join(" ")}`),
        ),
    ),
  );
}

document.title = `${document.title}: ${runs
  .map(nameOf)
  .filter((name, at, all) => all.indexOf(name) === at)
  .join(", ")}`;
const started = new Date(report.started ?? NaN);
document.getElementById("when").textContent = Number.isNaN(started.getTime())
  ? ""
  : started.toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short", timeZone: "UTC" }) + " UTC";
document
  .getElementById("main")
  .replaceChildren(...[verdict(), knee(), summary(), ...runs.map(section), method()].filter(Boolean));
// A link to a run that is folded opens it.
document.addEventListener("click", (event) => {
  const target = event.target.closest?.('a[href^="#run-"]')?.getAttribute("href");
  if (target) document.getElementById(target.slice(1)).open = true;
});
