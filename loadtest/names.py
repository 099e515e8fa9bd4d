#!/usr/bin/env python3
"""A million topic names against the default bound of 100,000 topics: names.py

Publishes them in batches of 10,000 lines, to a gateway that forgets idle topics after two seconds; says what became of each,
and the gateway's resident memory on the way and afterwards."""

import collections
import json
import time
import urllib.request

from bench import gateway

PAGE = 4096
BATCHES = 100
NAMES = 10_000


def main():
    with gateway("--topic-idle", "2s") as server:
        tell(server, "at the start")
        answers = collections.Counter()
        for batch in range(BATCHES):
            lines = "\n".join(json.dumps({"topic": f"n{batch}.{name}", "data": 1}) for name in range(NAMES))
            request = urllib.request.Request(f"http://{server.address}/publish", lines.encode(),
                                             {"content-type": "application/x-ndjson"})
            with urllib.request.urlopen(request) as answer:
                results = json.load(answer)["results"]
            answers.update(result.get("error", {}).get("code", "published") for result in results)
        tell(server, f"after {dict(answers)}")
        for seconds in (7, 15):
            time.sleep(seconds)
            tell(server, f"{seconds} s later")


def tell(server, when):
    with open(f"/proc/{server.pid}/statm") as pages:
        resident = int(pages.read().split()[1]) * PAGE
    print(f"{resident / 2**20:7.1f} MiB   {server.metrics()['fanfare_topics']:8.0f} topics   {when}", flush=True)


if __name__ == "__main__":
    main()
