#!/usr/bin/env python3
"""A flood of handshakes beside healthy subscribers: flood.py [--kind KIND] [--rounds N] ... (--help)

What it can take. Connections are opened, answered and closed one after another, many at a time, with nobody else there:
handshakes per second, and the CPU time of the gateway for each. Per worker-minute says how many a worker could answer in a
minute if it did nothing else. With `--kind token` that is what connecting with a token costs.

Isolation. In each round fresh gateways serve the same load: one alone, one under a flood of `--times` as many handshakes per
second as it can take, or of `--per-second`, opened on a schedule whatever becomes of them, and one beside another gateway that is
flooded so and has only what time is left: what the flood costs the machine, and with it the generator. The order turns from
round to round. Compared are the p99 of the subscribers' latencies. `offered` is what the flood could open: where that is less
than the schedule, it, or the machine, was the bottleneck, and the round says so. The flooder has what time the load generator
leaves it: who is served lives on other machines than who floods.

`--kind bad` is refused for its version (426), `good` becomes a raw WebSocket that is closed at once. `token` is a good one with one
of few RS256 tokens, which the gateway remembers; with `-- --token-cache 1` it checks the signature of each. `forged` has a token
of its own each, whose signature is wrong: the dearest to refuse (401). Flags of the gateway stand behind `--`, such as
`-- --handshakes-per-second "500 burst 500"`. Tokens need openssl."""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from bench import RELEASE, busy, gateway, load

TICKS = os.sysconf("SC_CLK_TCK")

# Who floods with tokens, and who is served beside them without.
CONFIGURATION = """
[[token_keys]]
id = "flood"
algorithm = "RS256"
public_key_file = "flood.pub"

[anonymous]
subscribe = ["load.>"]
publish = ["load.>"]
"""
SIGNATURE_BYTES = 256
# More than a cache of one remembers.
TOKENS = 4
# A flood ends by itself, too.
FLOOD_MAX = "2m"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--kind", choices=["bad", "good", "token", "forged"], default="bad")
    parser.add_argument("--times", type=float, default=3, help="the flood, in what the gateway can take")
    parser.add_argument("--per-second", type=float, help="the flood, in handshakes")
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=50, help="messages per second")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="0: only what it can take")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of the gateway, behind --")
    return parser.parse_args()


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        flags = ["--config", make_keys(folder)] if options.kind in ("token", "forged") else []
        requests = folder / "requests"
        requests.write_bytes(b"".join(handshakes(options.kind, folder)))
        run(options, requests, lambda *more: gateway(*flags, *more, *options.flags, workers=options.workers))


def run(options, requests, start):
    with start("--handshakes-per-second", "off") as server:
        before = cpu_seconds(server.pid)
        flooding = Flooding(server, requests)
        time.sleep(options.seconds)
        flooded = flooding.end()
        used = cpu_seconds(server.pid) - before
    total = sum(count for status, count in flooded["answers"].items() if status != "none")
    if not total:
        raise SystemExit("nothing was answered")
    per_second = total / flooded["seconds"]
    print(f"it can take {per_second:.0f} {options.kind} handshakes/s   {used / total * 1e6:.0f} µs of CPU each"
          f"   {total / used * 60:.0f} per worker-minute   busy {used / flooded['seconds']:.2f} of {options.workers} workers"
          f"   answers {flooded['answers']}", flush=True)
    if options.rounds:
        isolation(options, requests, start, options.per_second or per_second * options.times)


def isolation(options, requests, start, per_second):
    cases = ["alone", "elsewhere", "flooded"]
    p99 = {case: [] for case in cases}
    for number in range(options.rounds):
        for case in cases[number % len(cases):] + cases[:number % len(cases)]:
            with contextlib.ExitStack() as stack:
                server = flooded = stack.enter_context(start())
                if case == "elsewhere":
                    flooded = stack.enter_context(start())
                    stand_back(flooded.pid)
                flooding = Flooding(flooded, requests, per_second) if case != "alone" else None
                report = load(server, "--subscribers", options.subscribers, "--rate", options.rate, "--warmup", "2s",
                              "--duration", f"{options.seconds}s", "--drain", "5s")
                said = told(flooding.end(), per_second) if flooding else ""
            latency = report["latency_us"]
            p99[case].append(latency["p99"] / 1000)
            print(f"round {number + 1}  {case:9}   p50 {latency['p50'] / 1000:.2f} ms   p99 {latency['p99'] / 1000:.2f} ms"
                  f"   lost {report['delivery']['lost']}{said}{busy(report)}", flush=True)
    alone, elsewhere, flooded = (statistics.median(p99[case]) for case in cases)
    print(f"p99 of the healthy, medians   alone {alone:.2f} ms   flood elsewhere {elsewhere:.2f} ms   flooded {flooded:.2f} ms"
          f"   ratios to alone {elsewhere / alone:.2f} and {flooded / alone:.2f}, to elsewhere {flooded / elsewhere:.2f}")


def told(flooded, per_second):
    short = "   the flood was short" if flooded["opened_per_second"] < 0.9 * per_second else ""
    return f"   offered {flooded['opened_per_second']:.0f}/s of {per_second:.0f}{short}   answers {flooded['answers']}"


def handshakes(kind, folder):
    """The requests that a flooder sends by turns."""
    if kind == "forged":
        # Repeated, they are forged all the same: what is refused is not remembered.
        yield from (handshake(13, token(forger)) for _ in range(10_000))
    elif kind == "token":
        yield from (handshake(13, token(signer(folder))) for _ in range(TOKENS))
    else:
        yield handshake(8 if kind == "bad" else 13)


def handshake(version, bearer=None):
    lines = ["GET /topics/load.flood HTTP/1.1", "host: flood", "upgrade: websocket", "connection: Upgrade",
             "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==", f"sec-websocket-version: {version}"]
    if bearer:
        lines.append(f"authorization: Bearer {bearer}")
    return "\r\n".join([*lines, "", ""]).encode()


def make_keys(folder):
    """Writes a pair of keys and a configuration that has the public one. Returns its path."""
    key = folder / "flood.pem"
    for command in (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key],
                    ["pkey", "-in", key, "-pubout", "-out", folder / "flood.pub"]):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    path = folder / "fanfare.toml"
    path.write_text(CONFIGURATION)
    return path


def signer(folder):
    command = ["openssl", "dgst", "-sha256", "-sign", folder / "flood.pem"]
    return lambda text: subprocess.run(command, input=text, check=True, capture_output=True).stdout


def forger(_):
    # Below any modulus, so that it has to be looked at whole.
    return b"\0" + os.urandom(SIGNATURE_BYTES - 1)


def token(sign):
    header = {"alg": "RS256", "kid": "flood"}
    claims = {"exp": time.time() + 3600, "sub_topics": ["load.>"], "jti": os.urandom(8).hex()}
    text = b".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return b".".join([text, base64url(sign(text))]).decode()


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Flooding:
    """`fanfare-load flood`, until it is told to end. At a rate, it has what time the load generator leaves it."""

    def __init__(self, server, requests, per_second=None):
        command = [RELEASE / "fanfare-load", "flood", "--url", f"http://{server.address}", "--json",
                   "--duration", FLOOD_MAX, requests]
        if per_second:
            command += ["--rate", str(per_second)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=(lambda: stand_back(0)) if per_second else None)

    def end(self):
        self.process.terminate()
        said, _ = self.process.communicate(timeout=30)
        return json.loads(said)


def stand_back(pid):
    """Lets a process have what time others leave it. 0 is this one."""
    for thread in os.listdir(f"/proc/{pid or 'self'}/task"):
        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


main()
