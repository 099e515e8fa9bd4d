"""The tables of docs/PERFORMANCE.md, between their two markers."""

import math

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
LOADED = ["", "CPU per delivery", "against the floor", "of a core", "delivered/s", "p50", "p99", "lost"]
HELD = ["", "resident, per connection", "in the kernel's sockets", "connected"]


def replace(document, text):
    """The document with `text` between its markers."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}{END}{after}"


def render(campaign, scenarios, cells, picture):
    """All of it; `cells` has a `Cell`, or a text that says why there is none, by scenario and server name."""
    said = campaign.said
    machine = said["machine"]
    parts = [
        f"{said['started'][:10]}, Fanfare {said['fanfare']}, {machine['cores']} virtual cores of {machine['cpu']}, {machine['kernel']}; "
        f"the median of {count(said['rounds'], 'round')}"
        + (f", of {count(said['big_rounds'], 'round')} with 10,000 connections" if has_big(scenarios) else "") + ".",
    ]
    if picture:
        parts.append(f"![CPU per delivery, as multiples of the floor's]({picture})")
    for scenario in scenarios:
        servers = in_order(campaign.servers(scenario), cells[scenario.name])
        header, row = (LOADED, loaded) if scenario.rate else (HELD, held)
        rows = [[server.title, *row(cells[scenario.name][server.name])] for server in servers]
        parts.append(f"### {scenario.title}")
        parts.append(table(header, rows))
        measured = [(server, cells[scenario.name][server.name]) for server in servers]
        if notes := remarks([(server, cell) for server, cell in measured if not isinstance(cell, str)]):
            parts.append(" ".join(notes))
    if said["absent"]:
        parts.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in said["absent"].items()) + ".")
    return "\n\n".join(parts) + "\n"


def in_order(servers, cells):
    """Ours first, then the peers, the cheapest first."""
    def key(place):
        server, cell = servers[place], cells[servers[place].name]
        if not server.adapter:
            return 0, place
        if isinstance(cell, str):
            return 2, place
        measure = cell.ratio if cell.scenario.rate else cell.spread("resident_per_connection")
        return 1, measure.median if measure else math.inf

    return [servers[place] for place in sorted(range(len(servers)), key=key)]


def loaded(cell):
    """The cells of a row of a scenario in which messages are published."""
    if isinstance(cell, str):
        return [cell, *[""] * (len(LOADED) - 2)]
    cpu, share = cell.spread("cpu_us"), cell.spread("cpu_share")
    short = "" if cell.kept_up() else f" ({part(cell)} of what was asked)"
    busy = "†" if cell.bottlenecks() else ""
    return [
        duration(cpu),
        ratio(cell.ratio),
        f"{share.median:.0%}" if share else "–",
        f"{cell.spread('delivered_per_second').median:,.0f}{short}",
        duration(cell.spread("p50_us")),
        duration(cell.spread("p99_us")) + busy,
        f"{cell.total('lost'):,}",
    ]


def held(cell):
    """The cells of a row of a scenario in which connections are only held."""
    if isinstance(cell, str):
        return [cell, *[""] * (len(HELD) - 2)]
    resident, kernel = cell.spread("resident_per_connection"), cell.spread("kernel_per_connection")
    return [number(resident), number(kernel), f"{cell.spread('connected').lowest:,.0f}"]


def remarks(measured):
    """What a reader of a table must know besides, in sentences."""
    notes = []
    if any(cell.bottlenecks() for _, cell in measured):
        notes.append("† The generator had too little time itself in at least one round, so these latencies are in part its own.")
    for what, name in (("out of order", "out_of_order"), ("cut off", "disconnected")):
        if found := [f"{plain(server)} {cell.total(name):,}" for server, cell in measured if cell.total(name)]:
            things = "Subscribers" if name == "disconnected" else "Messages"
            notes.append(f"{things} {what}: {', '.join(found)}.")
    return notes


def table(header, rows):
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(spread):
    if not spread:
        return "–"
    return f"**{multiple(spread.median)}** ({multiple(spread.lowest)}–{multiple(spread.highest)})"


def multiple(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def part(cell):
    delivered = cell.part_delivered()
    return f"{delivered:.0%}" if delivered >= 0.01 else "under 1%"


def duration(spread):
    """Of microseconds, with three digits."""
    if not spread:
        return "–"
    scale, unit = next(step for step in ((1, "µs"), (1e3, "ms"), (1e6, "s")) if spread.median < 999.5 * step[0] or step[1] == "s")
    return f"{spread.median / scale:.3g} {unit}"


def number(spread):
    if not spread:
        return "–"
    around = f" ({spread.lowest:,.0f}–{spread.highest:,.0f})" if spread.lowest != spread.highest else ""
    return f"{spread.median:,.0f} B{around}"


def plain(server):
    """A title without its Markdown and what stands in brackets."""
    return server.title.replace("*", "").replace("`", "").partition(" (")[0]


def count(many, what):
    return f"{many:,} {what}" + ("" if many == 1 else "s")


def has_big(scenarios):
    return any(scenario.is_big() for scenario in scenarios)
