#!/usr/bin/env python3
"""Memory of the gateway per idle subscriber: idle.py [SUBSCRIBERS]"""

import sys

from bench import gateway, idle, memory_each


def main():
    subscribers = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name in ("raw", "json"):
        with gateway() as server:
            report, settled = idle(server, subscribers, "--format", name, "--connect-rate", 4000)
        memory = report["server"]
        print(f"{name:5} {memory_each(report, settled, subscribers)}   "
              f"(resident {memory['resident_bytes_before']} -> {memory['resident_bytes_connected']} -> {settled})")


main()
