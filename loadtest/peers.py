#!/usr/bin/env python3
"""Fanfare beside the systems that people start from: the floor, the gateway and every peer, in interleaved rounds."""

import argparse
import pathlib
import signal
import sys
import time

from field import figures, page, picture
from field.campaign import Campaign
from field.scenarios import SCENARIOS
from field.servers import ROOT, TARGET, peer_names, raise_file_limit

RESULTS = TARGET / "peers/results"
DOCUMENT = ROOT / "docs/PERFORMANCE.md"
PICTURE = ROOT / "docs/peers.svg"


def main():
    options = arguments()
    raise_file_limit()
    # As an interrupt from the keyboard: what runs is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; --resume goes on"))
    campaign = begin(options)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in campaign.said["scenarios"]]
    if options.render is None:
        print(f"the reports are kept in {campaign.folder}", flush=True)
        campaign.run(scenarios)
    write(campaign, scenarios)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME", help="default: all in loadtest/peers")
    parser.add_argument("--scenarios", nargs="*", default=[], metavar="NAME",
                        help=f"default: all of {', '.join(scenario.name for scenario in SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big-rounds", type=int, default=1, help="of the scenarios with 10,000 connections")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", nargs="?", const="", metavar="FOLDER", help="goes on with a campaign, the last one")
    earlier.add_argument("--render", nargs="?", const="", metavar="FOLDER", help="only writes the tables of one again")
    options = parser.parse_args()
    known = {"peers": peer_names(), "scenarios": [scenario.name for scenario in SCENARIOS]}
    for key, names in known.items():
        if unknown := set(getattr(options, key)) - set(names):
            parser.error(f"no such {key}: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def begin(options):
    """A new campaign, or the one that is named."""
    earlier = options.resume if options.resume is not None else options.render
    if earlier is not None:
        folders = [pathlib.Path(earlier)] if earlier else sorted(RESULTS.glob("*/campaign.json"))
        if not folders:
            sys.exit(f"there is no campaign in {RESULTS}")
        return Campaign.load(folders[-1] if earlier else folders[-1].parent)
    scenarios = [scenario for scenario in SCENARIOS if not options.scenarios or scenario.name in options.scenarios]
    folder = RESULTS / time.strftime("%Y-%m-%dT%H%M%S", time.gmtime())
    return Campaign.new(folder, options.peers or peer_names(), scenarios, options.rounds, options.big_rounds)


def write(campaign, scenarios):
    """The tables into the document, and the picture beside it."""
    cells = {scenario.name: cells_of(campaign, scenario) for scenario in scenarios}
    svg = picture.draw(campaign, scenarios, cells)
    if svg:
        PICTURE.write_text(svg)
    text = page.render(campaign, scenarios, cells, PICTURE.name if svg else None)
    DOCUMENT.write_text(page.replace(DOCUMENT.read_text(), text))
    print(f"wrote {DOCUMENT.relative_to(ROOT)}" + (f" and {PICTURE.relative_to(ROOT)}" if svg else ""))


def cells_of(campaign, scenario):
    """By server: what its rounds say, or why they say nothing."""
    servers = campaign.servers(scenario)
    runs = {server.name: [figures.run_of(report) for report in campaign.reports(scenario, server)] for server in servers}
    cells = {}
    for server in servers:
        if scenario.name in server.cannot:
            cells[server.name] = f"cannot: {server.cannot[scenario.name]}"
        elif any(runs[server.name]):
            cells[server.name] = figures.Cell(scenario, runs[server.name], runs["floor"])
        else:
            cells[server.name] = campaign.failure(scenario, server) or "not run"
    return cells


main()
