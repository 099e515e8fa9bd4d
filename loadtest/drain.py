#!/usr/bin/env python3
"""How a gateway says goodbye to a crowd: drain.py [--subscribers 5000] [--window 10]

Raw WebSockets listen to one topic while a publisher posts numbers, which goes on in the grace. Every subscriber must get every
number that was acknowledged before the closes began (later ones are for those who are still there), without a hole, then a close
frame (1012); and the closes must be flat over the window: as many in each tenth of it. Prints the histogram.
"""

import argparse
import collections
import http.client
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import time

from bench import gateway

HANDSHAKE = (b"GET /topics/crowd HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
# Listeners, the log, what Python keeps open.
OTHER_FILES = 100
GRACE = 2
TENTHS = 10
PATIENCE = 60


class Reader:
    """One subscriber's socket: numbers, then a close frame, then nothing."""

    def __init__(self, address):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(HANDSHAKE)
        self.bytes, self.numbers, self.code, self.closed_at = b"", [], None, None
        self.upgraded = False

    def read(self):
        """False at the end."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.bytes += data
        if not self.upgraded and b"\r\n\r\n" in self.bytes:
            head, self.bytes = self.bytes.split(b"\r\n\r\n", 1)
            assert b" 101 " in head, head
            self.upgraded = True
        while self.upgraded and len(self.bytes) >= 2 and len(self.bytes) >= 2 + self.bytes[1]:
            kind, payload = self.bytes[0], self.bytes[2:2 + self.bytes[1]]
            self.bytes = self.bytes[2 + len(payload):]
            if kind == 0x88:
                self.code, self.closed_at = int.from_bytes(payload[:2]), time.monotonic()
                # Its answer, under a key of zeros.
                self.socket.sendall(b"\x88\x82\0\0\0\0" + payload[:2])
            elif kind == 0x81:
                self.numbers.append(int(payload))
        return bool(data)


def publish(address, ended, acknowledged):
    """Posts numbers, 50 a second, until it is told to end, and notes when each was acknowledged."""
    connection = http.client.HTTPConnection(address)
    while not ended.is_set():
        number = len(acknowledged) + 1
        connection.request("POST", "/topics/crowd", str(number), {"Content-Type": "text/plain"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        acknowledged.append(time.monotonic())
        time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, default=5000)
    parser.add_argument("--window", type=int, default=10, help="seconds")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = min(options.subscribers, hard - OTHER_FILES)
    limits = ["--drain-grace", f"{GRACE}s", "--drain-window", f"{options.window}s"]
    with gateway(*limits, workers=2) as server:
        selector, readers = selectors.DefaultSelector(), []
        for _ in range(crowd):
            reader = Reader(server.address)
            readers.append(reader)
            selector.register(reader.socket, selectors.EVENT_READ, reader)
        acknowledged, ended = [], threading.Event()
        publisher = threading.Thread(target=publish, args=(server.address, ended, acknowledged))
        left = set(readers)

        def read_until(is_over):
            deadline = time.monotonic() + PATIENCE
            while left and not is_over():
                assert time.monotonic() < deadline, f"{len(left)} are still there"
                for key, _ in selector.select(0.1):
                    if not key.data.read():
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        left.discard(key.data)

        read_until(lambda: all(reader.upgraded for reader in readers))
        publisher.start()
        read_until(lambda: all(reader.numbers for reader in readers))
        os.kill(server.pid, signal.SIGTERM)
        told = time.monotonic()
        read_until(lambda: time.monotonic() > told + GRACE - 0.5)
        ended.set()
        publisher.join()
        read_until(lambda: False)
        code = server.process.wait(PATIENCE)

    # Before that, nobody was told to go.
    owed = sum(at < told + GRACE for at in acknowledged)
    missing = [reader for reader in readers
               if reader.numbers[-1] < owed
               or reader.numbers != list(range(reader.numbers[0], reader.numbers[-1] + 1))]
    odd = collections.Counter(reader.code for reader in readers if reader.code != 1012)
    begin = told + GRACE
    slots = collections.Counter(
        min(max(int((reader.closed_at - begin) / options.window * TENTHS), 0), TENTHS)
        for reader in readers if reader.closed_at)
    even = crowd / TENTHS
    print(f"{crowd} subscribers, {owed} messages acknowledged before the closes, {len(acknowledged) - owed} later; the gateway ended with {code}")
    for tenth in range(TENTHS + 1):
        name = f"{tenth / TENTHS * options.window:5.1f} s" if tenth < TENTHS else "  later"
        print(f"{name} {slots[tenth]:6} {'#' * round(slots[tenth] / even * 40)}")
    square = sum((slots[tenth] - even) ** 2 / even for tenth in range(TENTHS))
    print(f"largest tenth {max(slots.values()) / even:.3f} of an even one, chi-square {square:.1f} with {TENTHS - 1} degrees "
          "of freedom (below 16.9: flat)")
    for reader in missing[:5]:
        print("for one came", reader.numbers, "and code", reader.code)
    print(f"{len(missing)} subscribers lost something, {sum(odd.values())} were closed otherwise {dict(odd) or ''}")
    sys.exit(bool(missing or odd or code or square > 16.9))


main()
