#!/usr/bin/env python3
"""Memory of the gateway per idle subscriber: idle.py [SUBSCRIBERS]"""

import sys
import time

from bench import Load, gateway

# The allocator gives freed memory back within ten seconds.
SETTLE = 12


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def main():
    subscribers = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name in ("raw", "json"):
        with gateway() as server:
            with Load(server, "--subscribers", subscribers, "--rate", 0, "--format", name, "--warmup", "2s",
                      "--duration", f"{SETTLE}s", "--connect-rate", 4000) as run:
                while run.is_running() and server.metrics()["fanfare_connections"] < subscribers:
                    time.sleep(0.1)
                time.sleep(SETTLE)
                settled = resident_bytes(server.pid)
                report = run.report()
        memory = report["server"]
        before = memory["resident_bytes_before"]
        print(f"{name:5} {report['connections']['connected']} connected   "
              f"{memory['resident_bytes_per_connection']:.0f} bytes each at once, "
              f"{(settled - before) / subscribers:.0f} after {SETTLE} s   "
              f"(resident {before} -> {memory['resident_bytes_connected']} -> {settled})")


main()
