// The figures of a run that are no charts: groups, messages, connections, publishing, processes, settings.

function groupsOf(run) {
  const groups = run.groups ?? [];
  if (groups.length < 2) return null;
  const heads = [
    "Group",
    "Format",
    "Pace",
    "Connected",
    "Expected",
    "Delivered",
    "Lost",
    "Gaps",
    "Conflated",
    "Disconnected",
    "p50",
    "p99",
    "p99.9",
    "max",
  ];
  const rows = groups.map(({ name, format, pace, connections = {}, delivery = {}, latency_us: latency }) => [
    name,
    format ?? NONE,
    pace ?? NONE,
    `${count(connections.connected)} of ${count(connections.asked)}`,
    count(delivery.expected),
    count(delivery.delivered),
    count(delivery.lost),
    count(delivery.gaps),
    count(delivery.conflated),
    count(connections.disconnected),
    ...["p50", "p99", "p99_9", "max"].map((at) => (latency?.count ? micros(latency[at]) : NONE)),
  ]);
  return html(
    "section",
    {},
    html("h3", {}, "Groups of subscribers"),
    table("What each group of subscribers received", heads, rows, { wide: true }),
  );
}

const part = (title, ...children) => html("section", { class: "part" }, html("h3", {}, title), ...children);

function delivery({ delivery = {} }) {
  const { gaps, gap_messages: spanned } = delivery;
  return part(
    "Messages",
    facts([
      ["Expected", count(delivery.expected)],
      ["Delivered", count(delivery.delivered)],
      ["Lost", count(delivery.lost)],
      ["Repeated", count(delivery.repeated)],
      ["Out of order", count(delivery.out_of_order)],
      ["Malformed", count(delivery.malformed)],
      ["Offsets not rising", count(delivery.offsets_back)],
      ["Missing without a gap", count(delivery.unannounced)],
      ["Gaps announced", gaps ? `${count(gaps)}, of ${counted(spanned, "message")}` : count(gaps)],
      ["Conflated", count(delivery.conflated)],
    ]),
  );
}

function connections({ connections = {} }) {
  const { asked, connected, seconds: took, failures, disconnected, disconnects, reconnected } = connections;
  return part(
    "Connections",
    facts([
      ["Connected", `${count(connected)} of ${count(asked)}`],
      ["In", seconds(took)],
      known(took) && took > 0 && ["New connections", perSecond(connected / took)],
      ["Failed", labelled(failures)],
      ["Disconnected", disconnected ? labelled(disconnects) : count(disconnected)],
      ["Reconnected", count(reconnected)],
    ]),
  );
}

function publishing({ publish = {} }) {
  const off =
    known(publish.rate_error) && publish.asked_per_second > 0
      ? ` (${(publish.rate_error * 100).toFixed(2).replace(/^(?!-)/, "+")}%)`
      : "";
  const quantiles = (latency) =>
    latency?.count ? `p50 ${micros(latency.p50)}, p99 ${micros(latency.p99)}, max ${micros(latency.max)}` : NONE;
  return part(
    "Publishing",
    facts([
      ["Asked", perSecond(publish.asked_per_second)],
      ["Achieved", perSecond(publish.achieved_per_second) + off],
      ["Messages sent", count(publish.sent)],
      ["Acknowledged", count(publish.acknowledged)],
      publish.skipped > 0 && ["Not sent", count(publish.skipped)],
      ["Requests", count(publish.posts)],
      ["By status", labelled(publish.posts_by_status)],
      publish.unanswered_posts > 0 && ["Unanswered", count(publish.unanswered_posts)],
      ["Answered after", quantiles(publish.ack_us)],
      ["Sent late by", quantiles(publish.lateness_us)],
    ]),
  );
}

function server({ server }) {
  if (!server) return part("Server", html("p", { class: "empty" }, "Its process was not watched."));
  return part(
    "Server",
    facts([
      ["CPU", known(server.cpu_share) ? `${share(server.cpu_share)} of a core` : NONE],
      ["CPU per delivery", micros(server.cpu_us_per_delivery)],
      ["User, system", `${seconds(server.cpu_user_seconds)}, ${seconds(server.cpu_system_seconds)}`],
      ["Memory before", bytes(server.resident_bytes_before)],
      ["All connected", bytes(server.resident_bytes_connected)],
      ["Peak", bytes(server.resident_bytes_peak)],
      ["Per connection", bytes(server.resident_bytes_per_connection)],
      ["Kernel's socket buffers", bytes(server.kernel_socket_bytes)],
      ["Those per connection", bytes(server.kernel_socket_bytes_per_connection)],
    ]),
  );
}

function generator({ generator = {} }) {
  const percent = (part) => `${Math.round(part * 100)}%`;
  const threads = (generator.threads ?? []).map(({ name, running, waiting }) => [
    name,
    html(
      "span",
      { class: "meter" },
      html(
        "span",
        { class: "bar", "aria-hidden": "true" },
        svg(
          "svg",
          { viewBox: "0 0 100 6", preserveAspectRatio: "none" },
          svg("rect", { class: "ran", width: Math.min(100, running * 100), height: 6 }),
          svg("rect", {
            class: "waited",
            x: Math.min(100, running * 100),
            width: Math.max(0, Math.min(100 - running * 100, waiting * 100)),
            height: 6,
          }),
        ),
      ),
      `${percent(running)} ran, ${percent(waiting)} waited`,
    ),
  ]);
  return part(
    "Generator",
    generator.was_bottleneck
      ? html(
          "p",
          { class: "busy" },
          html("b", {}, "Lower bounds: "),
          (generator.bottleneck ?? []).join("; ") || "it had no time left",
        )
      : null,
    facts([
      ["CPU", known(generator.cpu_share) ? `${share(generator.cpu_share)} of a core` : NONE],
      ["CPU per delivery", micros(generator.cpu_us_per_delivery)],
      ...threads,
    ]),
  );
}

function settings({ scenario = {} }) {
  const rows = [];
  const add = (name, value) => {
    if (value === undefined) return;
    if (Array.isArray(value) && value.some((entry) => typeof entry === "object"))
      value.forEach((entry, at) => add(`${name} ${entry?.name ?? at + 1}`, entry));
    else if (Array.isArray(value)) rows.push([name, value.join(", ")]);
    else if (typeof value === "object")
      Object.entries(value).forEach(([key, inner]) => key !== "name" && add(`${name} ${key}`.trim(), inner));
    else rows.push([name.replaceAll("_", " "), typeof value === "number" ? brief.format(value) : String(value)]);
  };
  const { title, about, ...asked } = scenario;
  add("", asked);
  return part("What was asked for", facts(rows));
}
