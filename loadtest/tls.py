#!/usr/bin/env python3
"""The gateway under TLS against the gateway without: tls.py [ROUNDS] [SECONDS], or tls.py idle [SUBSCRIBERS]

CPU per delivery in interleaved rounds, or memory per idle subscriber. The load generator speaks no TLS, so HAProxy does it
for it, in both cases, and only the gateway's own time and memory count. Needs haproxy and openssl.
"""

import contextlib
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from bench import busy, gateway, idle, load, memory_each

CASES = [
    ("1,000 subscribers, 50 msg/s", ["--subscribers", 1000, "--rate", 50]),
    ("1,000 subscribers, 2,000 msg/s in batches of 20", ["--subscribers", 1000, "--rate", 2000, "--batch", 20]),
]

# Name, flags of the gateway, whether it is under TLS.
SIDES = [("ws, ring", ["--writer", "auto"], False), ("ws, inline", ["--writer", "inline"], False),
         ("wss", [], True)]

# Two files for each connection: 9,000 of them are what 20,000 files allow.
HAPROXY = """global
    nbthread 1
    maxconn 9000
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
listen load
    bind 127.0.0.1:{port} backlog 8192
    server gateway {address} {tls}
"""


class Front:
    """HAProxy's address, and the gateway's process: what the load is sent to, and what is measured."""

    def __init__(self, server, address):
        self.address, self.pid, self.metrics = address, server.pid, server.metrics


@contextlib.contextmanager
def fronted(flags, is_tls):
    """A gateway with HAProxy in front."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        if is_tls:
            certificate, key = folder / "certificate.pem", folder / "key.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=load"],
                           check=True, capture_output=True)
            flags = [*flags, "--tls-certificate", certificate, "--tls-key", key]
        server = stack.enter_context(gateway(*flags))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        tls = "ssl verify none alpn http/1.1" if is_tls else ""
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=port, address=server.address, tls=tls))
        haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
        front = subprocess.Popen([haproxy, "-db", "-q", "-f", config])
        stack.callback(front.wait)
        stack.callback(front.terminate)
        until_listening(port)
        yield Front(server, f"127.0.0.1:{port}")


def until_listening(port):
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    sys.exit("haproxy does not listen")


def cpu(rounds, seconds):
    for name, flags in CASES:
        flags = [*flags, "--payload", 128, "--warmup", "1s", "--duration", f"{seconds}s", "--drain", "5s"]
        figures = {side: [] for side, *_ in SIDES}
        print(name)
        for number in range(1, rounds + 1):
            for side, gateway_flags, is_tls in SIDES:
                with fronted(gateway_flags, is_tls) as front:
                    report = load(front, *flags)
                figures[side].append(report["server"]["cpu_us_per_delivery"])
                delivery = report["delivery"]
                print(f"  round {number}  {side:10} {figures[side][-1]:6.3f} µs/delivery   lost {delivery['lost']}"
                      f"   out of order {delivery['out_of_order']}{busy(report)}", flush=True)
        medians = {side: statistics.median(values) for side, values in figures.items()}
        print("  medians  " + "   ".join(f"{side} {value:.3f} µs" for side, value in medians.items()))


def memory(subscribers):
    for side, flags, is_tls in SIDES:
        with fronted(flags, is_tls) as front:
            report, settled = idle(front, subscribers, "--connect-rate", 1000)
        print(f"{side:10} {memory_each(report, settled, subscribers)}", flush=True)


def main():
    if sys.argv[1:2] == ["idle"]:
        return memory(int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    cpu(rounds, seconds)


main()
