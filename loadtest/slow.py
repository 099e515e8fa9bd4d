#!/usr/bin/env python3
"""What stalled subscribers cost the healthy ones and the machine: slow.py [--policy POLICY] [--rounds N] ... (--help)

Isolation. In each round two fresh gateways serve the same load, one with all subscribers healthy, one with a part of them
stalled: they connect, subscribe, and never read. The order turns from round to round. Compared are the p99 of the healthy
subscribers' latencies, from when a message was due to when it was read. Warm-up is long enough for what waits for a stalled
subscriber to reach its bound, so that the policy is at work in all of the window. All together they are as many in both, so
beside stalled ones fewer are healthy, and a pass is that much shorter.

Memory. One more run of each kind is looked at twice: when all have connected and nothing was published yet, and when
publishing is over, the healthy have received everything and the stalled still hold what waits for them (`--hold`). The
growth between the two is taken with and without stalled subscribers; the difference of the growths, over their number, is
what one costs. So what a connection costs anyway, and what publishing leaves behind anyway, cancel out.

  process        VmRSS. Frames are shared with the replay ring and among the stalled, so it grows by less than what waits
  outbox         fanfare_outbox_bytes: what waits counted once for each subscriber; the peak is over all of the run
  kernel (all)   `TCP: mem` of /proc/net/sockstat, in pages. It counts the sockets of both ends, since both are on this
                 machine, and the kernel reserves memory ahead for each core: exact to a megabyte or two in all
  client         the receive queues of the load generator's sockets (`ss -m`: r and f), which are kept small by
                 --receive-buffer: the share of `kernel (all)` that would be on another machine
  server         `kernel (all)` less `client`
  server (ss)    the same without the reserve: what `ss -m` counts for the gateway's sockets (w, r and f)

Nothing else should use TCP on the machine meanwhile."""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import time

from bench import Load, busy, configuration, gateway, group, load

PAGE = 4096
LOOK_EVERY = 0.05
# Without a new message for so long, publishing is over; the schedule has no such pauses.
QUIET = 0.7


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--policy", default="drop-oldest", help="the topics' policy for slow readers")
    parser.add_argument("--format", default="json", help="raw cannot say a gap: drop-oldest closes it")
    parser.add_argument("--subscribers", type=int, default=2000)
    parser.add_argument("--stalled", type=int, default=200)
    parser.add_argument("--rate", type=int, default=200, help="messages per second over all topics")
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--payload", type=int, default=1024)
    parser.add_argument("--warmup", type=int, default=10, help="seconds")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--receive-buffer", type=int, default=4096, help="SO_RCVBUF of the stalled")
    return parser.parse_args()


def main():
    options = arguments()
    with configuration(options.policy) as config:
        start = lambda: gateway("--config", config, workers=options.workers)
        isolation(options, start)
        memory(options, start)


def flags(options, stalled):
    return ["--subscribers", options.subscribers, "--stalled", stalled, "--receive-buffer", options.receive_buffer,
            "--rate", options.rate, "--topics", options.topics, "--payload", options.payload,
            "--format", options.format, "--warmup", f"{options.warmup}s", "--duration", f"{options.seconds}s",
            "--drain", "5s"]


def isolation(options, start):
    p99 = {0: [], options.stalled: []}
    for number in range(options.rounds):
        for stalled in sorted(p99, reverse=number % 2 == 1):
            with start() as server:
                report = load(server, *flags(options, stalled))
            latency, delivery, slow = report["latency_us"], report["delivery"], group(report, "stalled")
            p99[stalled].append(latency["p99"] / 1000)
            closed = f"   {closes(slow)}" if slow else ""
            print(f"round {number + 1}  {stalled:4} stalled   p50 {latency['p50'] / 1000:.2f} ms"
                  f"   p99 {latency['p99'] / 1000:.2f} ms   {report['delivered_per_second']:.0f} deliveries/s"
                  f"   lost {delivery['lost']}{closed}{busy(report)}", flush=True)
    without, with_stalled = (statistics.median(p99[stalled]) for stalled in (0, options.stalled))
    pairs = sorted(ours / theirs for ours, theirs in zip(p99[options.stalled], p99[0]))
    print(f"p99 of the healthy, medians   none stalled {without:.2f} ms   {options.stalled} stalled {with_stalled:.2f} ms"
          f"   ratio {with_stalled / without:.2f} (pairs {pairs[0]:.2f}–{pairs[-1]:.2f})"
          f"   difference {with_stalled - without:+.2f} ms", flush=True)


def closes(slow):
    connections = slow["connections"]
    return f"closed by the server {connections['disconnected']} {connections['disconnects']}"


def memory(options, start):
    growth, peaks = {}, {}
    for stalled in (0, options.stalled):
        with start() as server, Load(server, *flags(options, stalled), "--hold", "4s") as run:
            before, after, peaks[stalled] = watch(server, run, options.subscribers)
            growth[stalled] = {name: after[name] - before[name] for name in before}
            slow = group(run.report(), "stalled")
        if slow:
            print(f"memory run: {slow['connections']['connected']} stalled, {closes(slow)}")
    each = {name: (growth[options.stalled][name] - growth[0][name]) / options.stalled for name in growth[0]}
    each["server"] = each["kernel (all)"] - each["client"]
    print("bytes per stalled subscriber   " + "   ".join(f"{name} {value:.0f}" for name, value in each.items())
          + f"   outbox at its peak {(peaks[options.stalled] - peaks[0]) / options.stalled:.0f}")
    print("growth in all, none stalled    " + "   ".join(f"{name} {value:.0f}" for name, value in growth[0].items()))


def watch(server, run, subscribers):
    """Looks at everything before the first message and after the last; also the outboxes' peak."""
    before, peak, published, quiet_since = None, 0, 0, time.monotonic()
    while run.is_running():
        metrics = server.metrics()
        peak = max(peak, metrics["fanfare_outbox_bytes"])
        open_now = metrics["fanfare_connections"] - metrics.get('fanfare_connections{transport="http"}', 0)
        if metrics["fanfare_messages_total"] != published:
            published, quiet_since = metrics["fanfare_messages_total"], time.monotonic()
        if not published and not before and open_now == subscribers:
            looked = look(server, metrics)
            before = None if server.metrics()["fanfare_messages_total"] else looked
        if published and not before:
            sys.exit("the first look came too late: the machine is busy")
        if published and time.monotonic() - quiet_since > QUIET:
            return before, look(server, metrics), peak
        time.sleep(LOOK_EVERY)
    sys.exit("the run ended before it could be looked at: " + str(run.report()["problems"]))


def look(server, metrics):
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    port = server.address.rsplit(":", 1)[1]
    return {
        "process": int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024,
        "outbox": metrics["fanfare_outbox_bytes"],
        "kernel (all)": int(re.search(r"^TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text(), re.M)[1]) * PAGE,
        "client": socket_memory("dport", port),
        "server (ss)": socket_memory("sport", port),
    }


def socket_memory(side, port):
    """What the kernel holds for the connections on one side of a port."""
    listed = subprocess.run(["ss", "-tmnH", side, "=", f":{port}"], capture_output=True, text=True, check=True).stdout
    sockets = re.findall(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+)", listed)
    return sum(map(int, (bytes for socket in sockets for bytes in socket)))


main()
