"""Payloads that look like the format they travel in: websockets gets each byte for byte, httpx-sse each as one event."""

import base64
import contextlib
import json
import re

import httpx
from httpx_sse import aconnect_sse
from websockets.asyncio.client import connect

from story import PATIENCE, URL, WS, expect, publish, tell

TEXTS = [
    "first\n\ndata: forged\n\n",
    "\n\ndata: forged",
    "\nid: forged:1\nevent: gap\ndata: forged\n\n:",
    "retry: 0",
    "one\rtwo\r\nthree\n\rfour\r",
    "\r\r\r",
    "\n",
    " a space in front,\u2028a line separator,\u2029a paragraph separator,\x85\x0b\x0c\x1c and older ones",
    "NUL \0 and \0",
    "\ufeffa byte order mark",
    '"quoted\\" \\u0000 } ]',
    "😀 \U0010ffff",
]
JSON = [
    '{"a": 1.0,\t"b":"\\n\\ndata: forged", "c":"\u2028\x7f"}',
    '"\\u0000\\r\\n"',
]
BINARY = [b"\n\ndata: forged\n\n\xff", b"\0\r\n\x80"]


def lines(text):
    """A line ends with CR, LF or both (WHATWG HTML, section 9.2.6), and an event has no way to say which."""
    return re.sub("\r\n|\r", "\n", text)


async def story():
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE))
        raw = await stack.enter_async_context(connect(f"{WS}/topics/odd"))
        native = await stack.enter_async_context(connect(f"{WS}/ws"))
        await native.recv()
        await native.send(json.dumps({"type": "subscribe", "topics": ["odd"]}))
        await native.recv()
        source = await stack.enter_async_context(aconnect_sse(client, "GET", f"{URL}/topics/odd"))
        ndjson = client.stream("GET", f"{URL}/topics/odd", headers={"Accept": "application/x-ndjson"})
        ndjson = await stack.enter_async_context(ndjson)
        events, rows = source.aiter_sse(), ndjson_lines(ndjson)
        await (await raw.ping())  # From here on it listens.

        offset = 0
        for kind, payloads in [("text/plain", TEXTS), ("application/json", JSON), ("application/octet-stream", BINARY)]:
            for payload in payloads:
                offset += 1
                place = await publish("odd", payload, kind)
                what = f"{payload!r}"
                expect(f"{what}: the place", place["offset"], offset)
                expect(f"{what}, raw", await raw.recv(), payload)
                event = await anext(events)
                expect(f"{what}: the event's id", event.id, f"{place['epoch']}:{offset}")
                expect(f"{what}: the event's name", event.event, "message")
                message = await native.recv()
                expect(f"{what}: its row", await anext(rows), message)
                message = json.loads(message)
                expect(f"{what}: its place", (message["topic"], message["offset"]), ("odd", offset))
                if kind == "text/plain":
                    expect(f"{what}, native", message["data"], payload)
                    expect(f"{what}, as an event", event.data, lines(payload))
                elif kind == "application/json":
                    expect(f"{what}, native", message["data"], json.loads(payload))
                    expect(f"{what}, as an event", event.data, payload)
                else:
                    expect(f"{what}, native", base64.b64decode(message["data64"]), payload)
                    expect(f"{what}, as an event", base64.b64decode(event.data), payload)


async def ndjson_lines(response):
    """Lines end with LF alone: httpx's own `aiter_lines` breaks at U+2028, too."""
    rest = b""
    async for piece in response.aiter_bytes():
        *rows, rest = (rest + piece).split(b"\n")
        for row in rows:
            if row:
                yield row.decode()


tell(story)
