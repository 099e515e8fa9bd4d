#!/usr/bin/env python3
"""The gateway's CPU per delivery by format, in interleaved rounds: sse.py [ROUNDS] [SECONDS]

1,000 subscribers of one topic, 50 msg/s of 128 bytes, one worker. Each format has a fresh gateway in each round, and each
round begins with another format."""

import statistics
import sys

from bench import busy, gateway, load

FORMATS = ["raw", "sse", "json", "ndjson"]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    flags = ["--subscribers", 1000, "--rate", 50, "--payload", 128,
             "--warmup", "1s", "--duration", f"{seconds}s", "--drain", "5s"]
    figures = {name: [] for name in FORMATS}
    for number in range(rounds):
        start = number % len(FORMATS)
        for name in FORMATS[start:] + FORMATS[:start]:
            with gateway() as server:
                report = load(server, *flags, "--format", name)
                metrics = server.metrics()
            # Below 1, messages left together because the gateway had no core for a while: then a delivery costs less.
            writes = metrics["fanfare_writes_total"] / metrics["fanfare_deliveries_total"]
            cpu = report["server"]["cpu_us_per_delivery"]
            delivery, latency = report["delivery"], report["latency_us"]
            figures[name].append(cpu)
            print(f"round {number + 1}  {name:6} {cpu:6.3f} µs/delivery   {writes:.3f} writes/delivery   p50 {latency['p50'] / 1000:.2f} ms"
                  f"   p99 {latency['p99'] / 1000:.2f} ms   lost {delivery['lost']}"
                  f"   out of order {delivery['out_of_order']}   unannounced {delivery['unannounced']}{busy(report)}", flush=True)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print("medians  " + "   ".join(f"{name} {medians[name]:.3f} µs" for name in FORMATS))
    for name in FORMATS[1:]:
        pairs = sorted(ours / raw for ours, raw in zip(figures[name], figures["raw"]))
        print(f"{name}/raw  {medians[name] / medians['raw']:.3f} (pairs {pairs[0]:.2f}–{pairs[-1]:.2f})")


main()
