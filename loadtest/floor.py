#!/usr/bin/env python3
"""The gateway's CPU per delivery against the floor's, in interleaved rounds: floor.py [ROUNDS] [SECONDS]"""

import statistics
import sys

from bench import floor, gateway, load

CASES = [
    ("1,000 subscribers, 50 msg/s", [], ["--subscribers", 1000, "--rate", 50]),
    ("1,000 subscribers, 2,000 msg/s in batches of 20", ["--join"],
     ["--subscribers", 1000, "--rate", 2000, "--batch", 20]),
]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    for name, floor_flags, flags in CASES:
        flags = [*flags, "--payload", 128, "--warmup", "1s", "--duration", f"{seconds}s", "--drain", "5s"]
        figures = {"floor": [], "gateway": []}
        print(name)
        for number in range(1, rounds + 1):
            for server_name, server in (("floor", floor(*floor_flags)), ("gateway", gateway())):
                with server:
                    report = load(server, *flags)
                cpu = report["server"]["cpu_us_per_delivery"]
                delivery, latency = report["delivery"], report["latency_us"]
                figures[server_name].append(cpu)
                print(f"  round {number}  {server_name:8} {cpu:6.3f} µs/delivery   p50 {latency['p50'] / 1000:.2f} ms"
                      f"   p99 {latency['p99'] / 1000:.2f} ms   lost {delivery['lost']}"
                      f"   out of order {delivery['out_of_order']}", flush=True)
        medians = {server: statistics.median(values) for server, values in figures.items()}
        pairs = sorted(ours / theirs for ours, theirs in zip(figures["gateway"], figures["floor"]))
        print(f"  medians  floor {medians['floor']:.3f} µs   gateway {medians['gateway']:.3f} µs   "
              f"ratio {medians['gateway'] / medians['floor']:.2f} (pairs {pairs[0]:.2f}–{pairs[-1]:.2f})")


main()
