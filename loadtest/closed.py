#!/usr/bin/env python3
"""One publisher that waits for each answer, one subscriber: CPU per POST, the servers in turn: closed.py [ROUNDS] [SECONDS]

The publisher is a loop over one connection that stays, as fast as the server answers. So nothing sleeps for long, and what is
measured is the way through the server; the scenario `single` asks the same 500 times a second, where every request finds a
processor that has done something else meanwhile."""

import pathlib
import socket
import statistics
import sys
import time
import tomllib

from field.adapter import Template
from field.campaign import own_servers
from field.scenarios import load
from field.servers import ROOT, Running, peer

TOPIC = "load.0"
PAYLOAD = b'{"t":100000000000000000,"pad":"' + b"x" * 96 + b'"}'
PEERS = ["bun", "nchan"]
FANFARE = ROOT / "crates/loadgen/adapters/fanfare.toml"


def dial(address):
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def subscribe(address, adapter):
    words = adapter.get("subscribe", {})
    path = Template(words.get("path", "/topics/{topic}")).fill(TOPIC).decode()
    connection = dial(address)
    connection.sendall((f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(1)
    assert b" 101 " in head.splitlines()[0], head
    time.sleep(0.3)
    return connection


def request(address, adapter):
    words = adapter["publish"]
    path = Template(words["path"]).fill(TOPIC).decode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in words.get("headers", {}).items())
    return (f"POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {len(PAYLOAD)}\r\n\r\n").encode() + PAYLOAD


def answer(connection):
    """Reads one answer, whose body has a length."""
    text = connection.recv(65536)
    while b"\r\n\r\n" not in text:
        text += connection.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    assert head[9:10] == b"2", head
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += connection.recv(65536)


def used(pids):
    """Nanoseconds of CPU of all their threads."""
    return sum(int(path.read_text().split()[0]) for pid in pids
               for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"))


def measure(server, seconds):
    """Microseconds of CPU for each POST and its delivery, and how many there were in a second."""
    adapter = tomllib.loads((server.adapter or FANFARE).read_text())
    with Running(server) as running:
        subscriber = subscribe(running.address, adapter)
        publish = running.publish_address or running.address
        publisher, words = dial(publish), request(publish, adapter)

        def loop(until):
            count = 0
            while time.monotonic() < until:
                publisher.sendall(words)
                answer(publisher)
                received = subscriber.recv(65536)
                while len(received) < len(PAYLOAD):
                    received += subscriber.recv(65536)
                count += 1
            return count

        loop(time.monotonic() + 0.5)
        before, began = used(running.pids), time.monotonic()
        count = loop(began + seconds)
        return (used(running.pids) - before) / 1e3 / count, count / (time.monotonic() - began)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2
    own = [server for server in own_servers(load("single")) if server.name != "floor-uring"]
    servers = [*own, *map(peer, PEERS)]
    figures = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers[number % len(servers):] + servers[:number % len(servers)]:
            cpu, rate = measure(server, seconds)
            figures[server.name].append(cpu)
            print(f"  round {number + 1}  {server.name:15} {cpu:6.2f} µs/POST  {rate:6.0f} POSTs/s", flush=True)
    for name, values in figures.items():
        pairs = sorted(ours / floor for ours, floor in zip(values, figures["floor"]))
        print(f"{name:15} {statistics.median(values):6.2f} µs   against the floor "
              f"{statistics.median(values) / statistics.median(figures['floor']):.2f} ({pairs[0]:.2f}–{pairs[-1]:.2f})")


main()
