"""A small HTTP server and client for what stands beside a peer: a bridge in front of its control port, an origin behind it.

A connection is kept, and its requests are answered one after another by `answer(request)`.
"""

import asyncio
import re
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Request(NamedTuple):
    path: str
    body: bytes


async def serve(port, answer):
    """Listens on a port of the loopback until the process ends."""

    async def connection(reader, writer):
        try:
            while True:
                line, body = await _read(reader)
                _, path, _ = line.split(" ")
                writer.write(await answer(Request(path, body)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, limit=1 << 20, backlog=4096)
    await server.serve_forever()


async def ask(port, path, body):
    """The answer to a POST, on a connection of its own, without its headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(message(f"POST {path} HTTP/1.1", body, "Host: localhost", "Content-Type: application/json"))
        return message(*await _read(reader))
    finally:
        writer.close()


def message(first_line, body, *headers):
    """A request or an answer."""
    lines = [first_line, *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


async def _read(reader):
    """The first line and the body of a request or an answer that says its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return head[: head.index(b"\r\n")].decode("latin-1"), body
