"""A client for any adapter, slow and simple: what the generator does with one is checked against it.

A message is JSON with a member `"check":NUMBER` that something follows, and is found by it whatever stands around it."""

import asyncio
import re

from field.adapter import Template
from field.servers import Trouble

NUMBER = re.compile(rb'check\\*":(\d+)[,}]')
ANSWER_BYTES_MAX = 1 << 20


class Subscriber:
    """Reads the numbers of messages out of whatever the server puts around them."""

    def __init__(self, topic, wanted):
        self.topic, self.wanted = topic, wanted
        self.ready, self.complete = asyncio.Event(), asyncio.Event()
        self.numbers = []
        self.seen = b""

    async def run(self, adapter, address):
        headers = dict(adapter.get("headers", {}))
        path = Template(adapter["path"]).fill(self.topic).decode()
        opened = open_event_stream if adapter["transport"] == "event-stream" else open_websocket
        receive, send = await opened(address, path, headers)
        text = adapter.get("opcode", "text") == "text"
        for frame in adapter.get("send", []):
            if isinstance(frame, dict):
                await self.until(receive, Template(frame["after"]).fill(self.topic))
                frame = frame["frame"]
            frame = Template(frame).fill(self.topic)
            await send(frame.decode() if text else frame)
        if ready := adapter.get("ready"):
            await self.until(receive, Template(ready).fill(self.topic))
        self.ready.set()
        while True:
            self.read_numbers()
            self.seen += await receive()

    async def until(self, receive, wanted):
        while wanted not in self.seen:
            self.seen += await receive()
        self.seen = self.seen.partition(wanted)[2]

    def read_numbers(self):
        end = 0
        for found in NUMBER.finditer(self.seen):
            self.numbers.append(int(found[1]))
            end = found.end()
        # A message that was cut is completed by what comes next.
        self.seen = self.seen[end:]
        if len(self.numbers) >= self.wanted:
            self.complete.set()


async def open_websocket(address, path, headers):
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    protocols = [headers.pop(name) for name in list(headers) if name.lower() == "sec-websocket-protocol"]
    try:
        connection = await connect(f"ws://{address}{path}", additional_headers=headers, compression=None,
                                   subprotocols=protocols or None, max_queue=None)
    except WebSocketException as error:
        raise Trouble(f"subscribing failed: {error}") from None

    async def receive():
        try:
            return await connection.recv(decode=False)
        except WebSocketException as error:
            raise Trouble(str(error)) from None

    return receive, connection.send


async def open_event_stream(address, path, headers):
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_head("GET", path, address, {"Accept": "text/event-stream"} | headers))
    status, answered = await answer_head(reader)
    if status != 200:
        raise Trouble(f"subscribing was answered with {status}")
    chunked = answered.get("transfer-encoding") == "chunked"

    async def receive():
        part = await chunk(reader) if chunked else await reader.read(1 << 16)
        return part or await ended(writer)

    return receive, None


async def ended(writer):
    writer.close()
    raise Trouble("the event stream ended")


async def open_publisher(adapter, address, topic):
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, adapter.get("port") or int(port))
    kind = {"http": HttpPublisher, "tcp": TcpPublisher}[adapter["transport"]]
    publisher = kind(adapter, address, topic, reader, writer)
    await publisher.hello()
    return publisher


class HttpPublisher:
    """A request for each message, or for each batch where the adapter knows how."""

    def __init__(self, adapter, address, topic, reader, writer):
        self.adapter, self.address, self.topic = adapter, address, topic
        self.reader, self.writer = reader, writer
        self.n = 0

    async def hello(self):
        pass

    async def publish(self, payloads, as_batch):
        batch = self.adapter.get("batch")
        groups = [payloads] if batch and as_batch else [[payload] for payload in payloads]
        requests = [self.request(group, self.adapter | (batch if len(group) > 1 else {})) for group in groups]
        # Where requests need not wait for each other's answers, here they do not.
        at_once = 1 if self.adapter.get("pipeline", 1) == 1 else len(requests)
        for at in range(0, len(requests), at_once):
            self.writer.write(b"".join(requests[at:at + at_once]))
            for _ in requests[at:at + at_once]:
                await self.answer()

    def request(self, payloads, words):
        bodies = []
        for payload in payloads:
            bodies.append(Template(words["body"]).fill(self.topic, payload, self.n))
            self.n += 1
        before, join, after = (Template(words.get(key, "")).fill(self.topic) for key in ("before", "join", "after"))
        body = before + join.join(bodies) + after
        headers = words.get("headers", {}) | {"Content-Length": str(len(body))}
        path = Template(words["path"]).fill(self.topic).decode()
        return request_head(words.get("method", "POST"), path, self.address, headers) + body

    async def answer(self):
        status, answered = await answer_head(self.reader)
        await answer_body(self.reader, status, answered)
        if status not in self.adapter.get("success", range(200, 300)):
            raise Trouble(f"a publish was answered with {status}")


class TcpPublisher:
    """Messages in the server's own protocol; a batch is answered once."""

    def __init__(self, adapter, address, topic, reader, writer):
        self.topic = topic
        self.words = {key: Template(text) for key, text in adapter.items() if isinstance(text, str)}
        self.reader, self.writer = reader, writer
        self.seen = b""
        self.n = 0

    async def hello(self):
        self.writer.write(self.filled("hello"))
        await self.until(self.filled("hello_answer"))

    async def publish(self, payloads, as_batch):
        for payload in payloads:
            self.writer.write(self.filled("message", payload))
            self.n += 1
        self.writer.write(self.filled("after"))
        await self.until(self.filled("acknowledged"))

    def filled(self, word, payload=b""):
        return self.words[word].fill(self.topic, payload, self.n) if word in self.words else b""

    async def until(self, wanted):
        while wanted not in self.seen:
            part = await self.reader.read(1 << 16)
            if not part:
                raise Trouble("the publisher's connection ended")
            self.seen += part
        self.seen = self.seen.partition(wanted)[2]


def request_head(method, path, host, headers):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer_head(reader):
    """Status and headers, their names in small letters."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        raise Trouble("a request was not answered") from None
    headers = dict(line.split(":", 1) for line in head[1:] if ":" in line)
    return int(head[0].split(" ")[1]), {name.lower(): value.strip() for name, value in headers.items()}


async def answer_body(reader, status, headers):
    if headers.get("transfer-encoding") == "chunked":
        while await chunk(reader):
            pass
    elif status != 204:
        await reader.readexactly(min(int(headers["content-length"]), ANSWER_BYTES_MAX))


async def chunk(reader):
    """The next chunk of a chunked body; empty at its end."""
    size = int((await reader.readline()).split(b";")[0] or b"0", 16)
    data = await reader.readexactly(size)
    await reader.readline()
    return data
