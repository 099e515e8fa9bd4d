"""The picture beside the tables: CPU per delivery as multiples of the floor's, a panel per scenario.

Its colours are readable on white and on black, so one file serves both of a reader's themes."""

import html

from field.page import in_order, multiple, part, plain

PANEL_WIDTH, NAME_WIDTH, VALUE_WIDTH = 530, 186, 164
BAR_WIDTH = PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH
ROW, BAR, HEAD, GAP, LEGEND = 21, 13, 44, 22, 20
COLUMNS = 2
# A bar of more than this many times the floor is cut.
MULTIPLE_MAX = 6.0
LEGEND_TEXT = ("Dashed: the floor, a loop of send(). Paler: the server delivered less than was asked. Thin line: lowest to highest "
               "round. A bar with a gap is longer.")
TEXT, FAINT, OTHERS, OURS, FLOOR = "#7d8590", "#8b949e", "#9aa4af", "#2f81f7", "#57ab5a"


def draw(campaign, scenarios, cells):
    """The SVG's text; `None` if no scenario has a ratio."""
    panels = []
    for scenario in scenarios:
        servers = in_order(campaign.servers(scenario), cells[scenario.name])
        rows = [(server, cells[scenario.name][server.name]) for server in servers]
        if any(not isinstance(cell, str) and cell.ratio for _, cell in rows):
            panels.append((scenario, rows))
    if not panels:
        return None
    bodies, top = [], 8
    for first in range(0, len(panels), COLUMNS):
        line = panels[first:first + COLUMNS]
        bodies += [panel(scenario, rows, 8 + column * (PANEL_WIDTH + GAP), top)
                   for column, (scenario, rows) in enumerate(line)]
        top += HEAD + ROW * max(len(rows) for _, rows in line) + GAP
    bodies.append(text(8, top + 8, LEGEND_TEXT, 'font-size="11"'))
    top += LEGEND
    width = 16 + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * GAP
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">\n'
            f"<title>CPU per delivery, as multiples of the floor's</title>\n" + "\n".join(bodies) + "\n</svg>\n")


def panel(scenario, rows, left, top):
    title, _, about = scenario.title.partition(": ")
    parts = [text(left, top + 14, title, 'font-weight="600" font-size="14"'), text(left, top + 31, about, 'font-size="11"')]
    zero, bottom = left + NAME_WIDTH, top + HEAD + ROW * len(rows)
    floor = zero + BAR_WIDTH / MULTIPLE_MAX
    for place, (server, cell) in enumerate(rows):
        parts.append(row(server, cell, zero, top + HEAD + ROW * place))
    parts.append(f'<path d="M{floor:.1f} {top + HEAD - 4}V{bottom}" stroke="{FLOOR}" stroke-dasharray="3 3"/>')
    return "\n".join(parts)


def row(server, cell, zero, top):
    parts = [text(zero - 8, top + 11, plain(server), 'text-anchor="end"')]
    if isinstance(cell, str) or not cell.ratio:
        why = cell if isinstance(cell, str) else "did not deliver"
        parts.append(text(zero + at(1) + 8, top + 11, why if len(why) < 44 else why[:42] + "…", f'font-size="11" fill="{FAINT}"'))
        return "\n".join(parts)
    spread = cell.ratio
    # Where little was delivered, the bar says what that little cost.
    paler = ' fill-opacity="0.45"' if not cell.kept_up() else ""
    length = at(spread.median)
    for start, end in [(0, length)] if spread.median <= MULTIPLE_MAX else [(0, length - 14), (length - 10, length)]:
        parts.append(f'<rect x="{zero + start:.1f}" y="{top}" width="{end - start:.1f}" height="{BAR}" rx="2" '
                     f'fill="{colour(server)}"{paler}/>')
    if spread.highest <= MULTIPLE_MAX and spread.lowest < spread.highest:
        middle = top + BAR / 2
        parts.append(f'<path d="M{zero + at(spread.lowest):.1f} {middle}H{zero + at(spread.highest):.1f}" '
                     f'stroke="{TEXT}" stroke-width="2"/>')
    shown = max(length, at(min(spread.highest, MULTIPLE_MAX)))
    value = f"{multiple(spread.median)}×" + ("" if cell.kept_up() else f", {part(cell)} delivered")
    parts.append(text(zero + shown + 6, top + 11, value, 'font-weight="600"' if not server.adapter else ""))
    return "\n".join(parts)


def at(value):
    return BAR_WIDTH * min(value, MULTIPLE_MAX) / MULTIPLE_MAX


def colour(server):
    if server.name.startswith("floor"):
        return FLOOR
    return OTHERS if server.adapter else OURS


def text(x, y, words, attributes=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{html.escape(words)}</text>'
