#!/usr/bin/env python3
"""A flood of handshakes beside healthy subscribers: flood.py [--kind KIND] [--rounds N] ... (--help)

What it can take. Connections are opened, answered and closed one after another, many at a time, with nobody else there:
handshakes per second, and the CPU time of the gateway for each. Per worker-minute says how many a worker could answer in a
minute if it did nothing else. With `--kind good --token TOKEN` that is what connecting with a token costs.

Isolation. In each round two fresh gateways serve the same load, one of them under a flood of `--times` as many handshakes
per second as it can take, opened on a schedule whatever becomes of them. The order turns from round to round. Compared are
the p99 of the subscribers' latencies. `offered` is what the flood could open: where that is less than the schedule, it, or the
machine, was the bottleneck, and the round says so.

`--kind bad` is refused for its version (426), `good` becomes a raw WebSocket that is closed at once. Flags of the gateway stand
behind `--`, such as `-- --handshakes-per-second "500 burst 500"`."""

import argparse
import multiprocessing
import os
import selectors
import socket
import statistics
import time

from bench import busy, gateway, load

TICKS = os.sysconf("SC_CLK_TCK")
REFUSED = ("sec-websocket-version: 8",)
ACCEPTED = ("sec-websocket-version: 13",)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--kind", choices=["bad", "good"], default="bad")
    parser.add_argument("--token", help="sent as Authorization: Bearer")
    parser.add_argument("--times", type=float, default=3, help="the flood, in what the gateway can take")
    parser.add_argument("--flooders", type=int, default=1, help="processes that open connections")
    parser.add_argument("--at-a-time", type=int, default=64, help="open connections of one of them, to find what it can take")
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=50, help="messages per second")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="0: only what it can take")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of the gateway, behind --")
    return parser.parse_args()


def main():
    options = arguments()
    request = handshake(options)
    start = lambda *flags: gateway(*flags, *options.flags, workers=options.workers)
    with start("--handshakes-per-second", "off") as server:
        before = cpu_seconds(server.pid)
        total, statuses = flood(server, options, request, None)
        used = cpu_seconds(server.pid) - before
    if not total:
        raise SystemExit("nothing was answered")
    per_second = total / options.seconds
    print(f"it can take {per_second:.0f} {options.kind} handshakes/s   {used / total * 1e6:.0f} µs of CPU each"
          f"   {total / used * 60:.0f} per worker-minute   busy {used / options.seconds:.2f} of {options.workers} workers"
          f"   answers {statuses}", flush=True)
    if options.rounds:
        isolation(options, request, start, per_second * options.times)


def isolation(options, request, start, per_second):
    p99 = {False: [], True: []}
    for number in range(options.rounds):
        for flooded in sorted(p99, reverse=number % 2 == 1):
            with start() as server:
                flooding = Flooding(server, options, request, per_second) if flooded else None
                report = load(server, "--subscribers", options.subscribers, "--rate", options.rate, "--warmup", "2s",
                              "--duration", f"{options.seconds}s", "--drain", "5s")
                said = flooding.end() if flooding else ""
                refused = server.metrics().get("fanfare_refusals_total", 0)
            latency = report["latency_us"]
            p99[flooded].append(latency["p99"] / 1000)
            print(f"round {number + 1}  {'flooded' if flooded else 'alone  '}   p50 {latency['p50'] / 1000:.2f} ms"
                  f"   p99 {latency['p99'] / 1000:.2f} ms   lost {report['delivery']['lost']}   refused {refused:.0f}"
                  f"{said}{busy(report)}", flush=True)
    alone, flooded = (statistics.median(p99[key]) for key in (False, True))
    print(f"p99 of the healthy, medians   alone {alone:.2f} ms   flooded {flooded:.2f} ms   ratio {flooded / alone:.2f}")


def handshake(options):
    lines = ["GET /topics/flood HTTP/1.1", "host: flood", "upgrade: websocket", "connection: Upgrade",
             "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==", *(REFUSED if options.kind == "bad" else ACCEPTED)]
    if options.token:
        lines.append(f"authorization: Bearer {options.token}")
    return "\r\n".join([*lines, "", ""]).encode()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Flooding:
    """Processes that open connections until they are told to end."""

    def __init__(self, server, options, request, per_second):
        self.stop = multiprocessing.Event()
        self.results = multiprocessing.Queue()
        self.per_second = per_second
        each = per_second / options.flooders if per_second else None
        arguments = (server.address, request, each, options.at_a_time, self.stop, self.results)
        self.processes = [multiprocessing.Process(target=flooder, args=arguments, daemon=True)
                          for _ in range(options.flooders)]
        self.begun = time.monotonic()
        for process in self.processes:
            process.start()

    def collect(self):
        self.stop.set()
        seconds = time.monotonic() - self.begun
        results = [self.results.get(timeout=30) for _ in self.processes]
        for process in self.processes:
            process.join()
        return seconds, results

    def end(self):
        seconds, results = self.collect()
        offered = sum(opened for opened, _ in results) / seconds
        short = "   the flood was short" if offered < 0.9 * self.per_second else ""
        return f"   offered {offered:.0f}/s of {self.per_second:.0f}{short}   answers {merged(results)}"


def flood(server, options, request, per_second):
    flooding = Flooding(server, options, request, per_second)
    time.sleep(options.seconds)
    _, results = flooding.collect()
    statuses = merged(results)
    return sum(count for status, count in statuses.items() if status != "none"), statuses


def merged(results):
    statuses = {}
    for _, each in results:
        for status, count in each.items():
            statuses[status] = statuses.get(status, 0) + count
    return statuses


# Open connections of one process whose answers do not come; the flood then opens no more.
OPEN_MAX = 4000


def flooder(address, request, per_second, at_a_time, stop, results):
    host, port = address.split(":")
    opened, statuses, waiting = 0, {}, set()
    selector = selectors.DefaultSelector()
    begun = time.monotonic()
    while not stop.is_set():
        due = opened + at_a_time - len(waiting)
        if per_second:
            due = min(int((time.monotonic() - begun) * per_second), opened + OPEN_MAX - len(waiting), opened + 500)
        while opened < due:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((host, int(port)))
            selector.register(connection, selectors.EVENT_WRITE)
            waiting.add(connection)
            opened += 1
        for key, _ in selector.select(0.001):
            connection = key.fileobj
            try:
                if key.events == selectors.EVENT_WRITE:
                    connection.send(request)
                    selector.modify(connection, selectors.EVENT_READ)
                    continue
                status = connection.recv(4096)[9:12].decode("latin-1") or "none"
            except OSError:
                status = "none"
            statuses[status] = statuses.get(status, 0) + 1
            selector.unregister(connection)
            connection.close()
            waiting.discard(connection)
    for connection in waiting:
        connection.close()
    results.put((opened, statuses))


main()
