#!/usr/bin/env python3
"""System calls and instructions of a publish, a handshake and a refusal: counts.py [WORD] (needs strace and valgrind)

One worker, one raw WebSocket subscriber of the topic, 128-byte messages. What two runs differ in, over what they did more. With
a word, only the rows that have it in their name.

"lines of code" are those of 64 bytes that nearly each publish or handshake runs through: what a processor has to fetch when it
did something else meanwhile.
"""

import collections
import contextlib
import re
import socket
import subprocess
import sys
import tempfile

from bench import RELEASE

HANDSHAKE = (b"GET /topics/t HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
FRAME_BYTES = 132


class Gateway:
    """A gateway under a tool that counts."""

    def __init__(self, tool, flags=()):
        command = [*tool, str(RELEASE / "fanfare"), "serve", "--workers", "1", "--listen", "127.0.0.1:0",
                   "--admin", "127.0.0.1:0", "--drain-grace", "1ms", "--drain-window", "1ms", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        host, port = re.search(r"([\d.]+):(\d+)", self.process.stdout.readline()).groups()
        self.address = host, int(port)

    def connect(self, request=b""):
        connection = socket.create_connection(self.address)
        connection.settimeout(30)
        connection.sendall(request)
        if request:
            read_heads(connection, 1)
        return connection

    def end(self):
        """What strace or valgrind runs is its child, or valgrind itself."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        subprocess.run(["kill", *(children.stdout.split() or [str(self.process.pid)])], check=True)
        self.process.wait(60)


def read_heads(connection, count):
    """Reads so many answers; bodies end as a JSON object does."""
    text = b""
    while text.count(b"HTTP/1.1 ") < count or not text.endswith((b"}", b"\r\n\r\n")):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(text)
        text += data


def read_bytes(connection, count):
    while count > 0:
        count -= len(connection.recv(1 << 20))


def post(lines=1):
    body = b"\n".join([b"x" * 128] * lines)
    query = b"?split=lines" if lines > 1 else b""
    return (b"POST /topics/t%b HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
            % (query, len(body))) + body


def publish(publishers=1, pipelined=1, lines=1):
    """POSTs of so many connections at a time, each with so many requests."""
    def run(gateway, posts):
        with contextlib.ExitStack() as stack:
            subscriber = stack.enter_context(gateway.connect(HANDSHAKE))
            connections = [stack.enter_context(gateway.connect()) for _ in range(publishers)]
            for _ in range(posts // (publishers * pipelined)):
                for connection in connections:
                    connection.sendall(post(lines) * pipelined)
                for connection in connections:
                    read_heads(connection, pipelined)
                read_bytes(subscriber, FRAME_BYTES * publishers * pipelined * lines)
    return run


def handshakes(gateway, count):
    for _ in range(count):
        gateway.connect(HANDSHAKE).close()


def refused(request=b"", held=b""):
    """Connections that are answered and closed; one is there before, and stays."""
    def run(gateway, count):
        with gateway.connect() as first:
            with contextlib.suppress(ConnectionResetError):
                first.sendall(held + request)
                first.recv(65536)
            for _ in range(count):
                with gateway.connect() as connection:
                    with contextlib.suppress(ConnectionResetError):
                        connection.sendall(held + request)
                        while connection.recv(65536):
                            pass
    return run


def refused_publishes(gateway, count):
    """Publishes that are too many, on one connection that stays."""
    text = post().replace(b"Host: x", b"Host: x\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: keep-alive")
    with gateway.connect() as connection:
        for _ in range(count):
            connection.sendall(text)
            read_heads(connection, 1)


def strace(run, count, flags):
    with tempfile.NamedTemporaryFile("r") as counts:
        gateway = Gateway(["strace", "-f", "-c", "-U", "name,calls", "-o", counts.name], flags)
        run(gateway, count)
        gateway.end()
        rows = (line.split() for line in counts)
        calls = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != "total"}
        return calls, collections.Counter()


def callgrind(run, count, flags):
    with tempfile.NamedTemporaryFile("r") as counts:
        gateway = Gateway(["valgrind", "--tool=callgrind", "--collect-bus=yes", "--dump-instr=yes", "--compress-pos=no",
                           f"--callgrind-out-file={counts.name}"], flags)
        run(gateway, count)
        gateway.end()
        addresses, is_call = collections.Counter(), False
        for line in counts:
            if line.startswith("totals: "):
                totals = line.split()
            elif line.startswith("0x") and not is_call:
                address, _, instructions, *_ = line.split()
                addresses[int(address, 16)] += int(instructions)
            # The line after a call has the costs of what was called, again.
            is_call = line.startswith("calls=")
        return {"instructions": int(totals[1]), "with a bus lock": int(totals[2])}, addresses


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BAD = HANDSHAKE.replace(b"Version: 13", b"Version: 8")
PROXY = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n"
PROXIED = ["--trusted-proxies", "127.0.0.1", "--proxy-protocol"]
FORWARDED = ["--trusted-proxies", "127.0.0.1"]


def main():
    for name, run, less, more, *flags in [
        ("one POST at a time", publish(), 200, 1200),
        ("20 POSTs pipelined", publish(pipelined=20), 200, 1200),
        ("4 publishers", publish(publishers=4), 200, 1200),
        ("POSTs of 20 lines", publish(lines=20), 100, 300),
        ("a handshake and its end", handshakes, 100, 500),
        ("refused: connections", refused(HEALTH), 100, 500, "--connections", "1"),
        ("refused: handshakes_per_second", refused(HEALTH), 100, 500, "--handshakes-per-second", "1 burst 1"),
        ("refused: address_connections", refused(HEALTH, PROXY), 100, 500, *PROXIED, "--address-connections", "1"),
        ("refused: address_handshakes_per_second", refused(HEALTH, PROXY), 100, 500, *PROXIED,
         "--address-handshakes-per-second", "1 burst 1"),
        ("refused: a bad handshake", refused(BAD), 100, 500),
        ("refused: a bad PROXY header", refused(b"PROXY TCP5\r\n", b""), 100, 500, *PROXIED),
        ("refused: publishes_per_second", refused_publishes, 100, 500, *FORWARDED, "--publishes-per-second", "1 burst 1"),
    ]:
        if sys.argv[1:] and sys.argv[1] not in name:
            continue
        print(name)
        for tool in (strace, callgrind):
            (before, code_before), (after, code) = tool(run, less, flags), tool(run, more, flags)
            each = {key: (after[key] - before.get(key, 0)) / (more - less) for key in after}
            each["lines of code"] = len({address // 64 for address, count in code.items()
                                         if count - code_before[address] >= 0.8 * (more - less)})
            print("   ", ", ".join(f"{key} {value:.2f}" for key, value in each.items() if value > 0.04))


main()
