"""Envoy as deploy/envoy has it, in front of one gateway."""

import asyncio
import os
import resource
import signal

import carried
from balancers import envoy
from story import URL, expect, tell

# One more than Envoy lets through to a cluster by itself.
CROWD = 1025


async def a_crowd(front):
    """Each is a connection of its own to the gateway, and a request that does not end."""
    host, port = front.removeprefix("http://").split(":")
    request = f"GET /topics/crowd HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode()
    writers = []
    for number in range(1, CROWD + 1):
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        writer.write(request)
        line = await reader.readline()
        expect(f"the answer to number {number}", line, b"HTTP/1.1 200 OK\r\n")
    for writer in writers:
        writer.close()


def allow_files():
    """As many as there may be, here and in what is started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def story():
    allow_files()
    async with envoy(URL.removeprefix("http://")) as front:
        await a_crowd(front)
        await carried.everything(front)
        await carried.the_end(front, lambda: os.kill(int(os.environ["FANFARE_PID"]), signal.SIGTERM))


tell(story)
