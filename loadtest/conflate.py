#!/usr/bin/env python3
"""Readers at a tenth of the feed's rate on a conflating topic: conflate.py (--help)

One topic, healthy subscribers beside slow ones. A slow one reads a tenth of the bytes that the topic brings, so what it
gets must be the newest that there is each time there is room. Checked: order, nothing twice, everybody ends on the newest
message once publishing is over (bounded by --drain), the healthy lose nothing. Told: how old a message is when a slow reader
has it, from when it was due. That age is what lies in the kernel's buffers in front of it, at its rate: the outbox adds
nothing where it conflates. The receive buffer is kept small for that reason, but not as small as could be: a window that
never has room for all that the gateway's kernel has not sent yet (limits.socket_unsent_bytes) looks like one that never
opens, and Linux then ends the connection after TCP_USER_TIMEOUT although its reader reads."""

import argparse
import statistics

from bench import configuration, gateway, group, load

# Around the payload: a frame's header, and in the JSON formats topic and offset.
ENVELOPE_BYTES = {"raw": 4, "json": 46, "ndjson": 49, "sse": 36}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--policy", default="conflate", help="the topic's policy for slow readers")
    parser.add_argument("--format", default="raw", choices=ENVELOPE_BYTES)
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--slow", type=int, default=20, help="of the subscribers")
    parser.add_argument("--rate", type=int, default=200, help="messages per second")
    parser.add_argument("--payload", type=int, default=1024)
    parser.add_argument("--warmup", type=int, default=2, help="seconds")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--drain", type=int, default=60, help="seconds at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--receive-buffer", type=int, default=32768, help="SO_RCVBUF of the slow")
    return parser.parse_args()


def main():
    options = arguments()
    feed = options.rate * (options.payload + ENVELOPE_BYTES[options.format])
    conflating = ["--conflating"] if options.policy == "conflate" else []
    flags = ["--subscribers", options.subscribers, "--trickle", options.slow, "--trickle-rate", feed // 10,
             "--receive-buffer", options.receive_buffer, "--rate", options.rate, "--payload", options.payload,
             "--format", options.format, "--warmup", f"{options.warmup}s", "--duration", f"{options.seconds}s",
             "--drain", f"{options.drain}s", *conflating]
    print(f"feed {feed} bytes/s, slow readers {feed // 10} bytes/s")
    ages = []
    with configuration(options.policy) as config:
        for number in range(options.rounds):
            with gateway("--config", config) as server:
                report = load(server, *flags)
            slow, healthy = group(report, "trickle"), group(report, "full")["delivery"]
            delivery, age, connections = slow["delivery"], slow["latency_us"], slow["connections"]
            ages.append((age["p50"] / 1e6, age["p99"] / 1e6))
            print(f"round {number + 1}  slow: received {delivery['delivered']} of {delivery['expected']}"
                  f"   conflated {delivery['conflated']}   lost {delivery['lost']}   repeated {delivery['repeated']}"
                  f"   out of order {delivery['out_of_order']}   closed {connections['disconnects']}"
                  f"   age p50 {ages[-1][0]:.2f} s  p99 {ages[-1][1]:.2f} s")
            print(f"         healthy: lost {healthy['lost']}   conflated {healthy['conflated']}"
                  f"   p99 {report['latency_us']['p99'] / 1000:.2f} ms   {report['problems'] or 'passed'}", flush=True)
    p50, p99 = (statistics.median(values) for values in zip(*ages))
    print(f"age of what a slow reader has, medians   p50 {p50:.2f} s   p99 {p99:.2f} s")


main()
