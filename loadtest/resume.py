#!/usr/bin/env python3
"""Many clients resume at once: what does it cost those who are there?

    python3 loadtest/resume.py [RESUMING=3000] [ROUNDS=5]

A round is two runs of `fanfare-load quick` (1,000 subscribers of one topic, 50 messages a second), one alone and one in whose
middle RESUMING clients connect within a second, each asking for 1,000 messages of another topic by Last-Event-ID and
reading them. Prints the p99 of the subscribers that are there, the ratio and difference, and whether every client got all
of its replay.
"""

import json
import selectors
import socket
import statistics
import sys
import time
import urllib.request

from bench import Load, busy, gateway

MESSAGES = 1_000


def main():
    resuming = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    results = []
    for number in range(1, rounds + 1):
        alone, _, _ = measure(0)
        beside, whole, note = measure(resuming)
        results.append((alone, beside))
        print(f"round {number}: p99 {alone:.2f} ms alone, {beside:.2f} ms beside {resuming} resumes "
              f"({beside / alone:.2f}x, {beside - alone:+.2f} ms); {whole} of {resuming} got all{note}", flush=True)
    ratio = statistics.median(beside / alone for alone, beside in results)
    difference = statistics.median(beside - alone for alone, beside in results)
    print(f"median: {ratio:.2f}x, {difference:+.2f} ms")


def measure(resuming):
    """One run: its p99 in milliseconds, how many clients got their whole replay, and what to say of the machine."""
    with gateway() as server:
        epoch = publish_history(server)
        with Load(server, "--subscribers", 1000, "--rate", 50, "--warmup", "2s", "--duration", "8s") as run:
            time.sleep(4)
            whole = resume(server, epoch, resuming) if resuming else 0
            report = run.report()
    return report["latency_us"]["p99"] / 1000, whole, busy(report)


def publish_history(server):
    lines = "\n".join(json.dumps({"topic": "history", "data": "x" * 100}) for _ in range(MESSAGES + 1))
    request = urllib.request.Request(f"http://{server.address}/publish", lines.encode(),
                                     {"content-type": "application/x-ndjson"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["results"][0]["epoch"]


def resume(server, epoch, count):
    """Connects `count` clients, reads each one's replay to its end, and says how many were whole."""
    request = (f"GET /topics/history HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n"
               f"last-event-id: {epoch}:1\r\n\r\n").encode()
    host, port = server.address.split(":")
    address = (host, int(port))
    selector = selectors.DefaultSelector()
    last = f"id: {epoch}:{MESSAGES + 1}\n".encode()
    whole = 0
    began = time.monotonic()
    for index in range(count):
        connection = socket.create_connection(address)
        connection.sendall(request)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, [0, b""])
        # Within a second, and reading meanwhile.
        behind = began + index / count - time.monotonic()
        whole += read(selector, last, max(behind, 0))
    deadline = time.monotonic() + 20
    while selector.get_map() and time.monotonic() < deadline:
        whole += read(selector, last, 0.1)
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    return whole


def read(selector, last, timeout):
    """Reads what is there; clients that came to their last message leave. Says how many had got all."""
    whole = 0
    for key, _ in selector.select(timeout):
        state = key.data
        try:
            data = key.fileobj.recv(1 << 18)
        except BlockingIOError:
            continue
        text = state[1] + data
        state[0] += text.count(b"\nid: ") + text.startswith(b"id: ") - state[1].count(b"\nid: ")
        state[1] = text[-64:]
        if not data or last in text:
            whole += int(last in text and state[0] >= MESSAGES)
            selector.unregister(key.fileobj)
            key.fileobj.close()
    return whole


if __name__ == "__main__":
    main()
