#!/usr/bin/env python3
"""Memory of the gateway per idle subscriber: idle.py [SUBSCRIBERS]"""

import sys

from bench import gateway, load


def main():
    subscribers = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name in ("raw", "json"):
        with gateway() as server:
            report = load(server, "--subscribers", subscribers, "--rate", 0, "--format", name,
                          "--duration", "3s", "--warmup", "2s", "--connect-rate", 4000)
        memory = report["server"]
        print(f"{name:5} {report['connections']['connected']} connected   "
              f"{memory['resident_bytes_per_connection']:.0f} bytes each   "
              f"(resident {memory['resident_bytes_before']} -> {memory['resident_bytes_connected']})")


main()
