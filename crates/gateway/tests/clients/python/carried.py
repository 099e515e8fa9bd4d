"""What has to get through whatever stands in front of a gateway, checked one by one."""

import asyncio
import json
import os
import urllib.error
import urllib.request

import aiohttp
import httpx
from httpx_sse import aconnect_sse, connect_sse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from story import ADMIN, PATIENCE, expect, fetch, publish

BINARY = {"Content-Type": "application/octet-stream"}


def client():
    return httpx.AsyncClient(timeout=PATIENCE)


async def requests(front):
    """Publishing, the last value, and refusals in the gateway's own words."""
    place = await publish("plain", '{"price": 1.10}', url=front)
    async with client() as http:
        answer = await http.get(f"{front}/topics/plain")
        expect("the last value", answer.text, '{"price": 1.10}')
        etag = answer.headers["etag"]
        expect("its entity tag", etag, f'"{place["epoch"]}:{place["offset"]}"')
        answer = await http.get(f"{front}/topics/plain", headers={"If-None-Match": etag})
        expect("nothing new", answer.status_code, 304)
        answer = await http.post(f"{front}/topics/plain?split=lines", content="line\n" * 10_000)
        expect("as many lines as there may be", answer.json().get("count"), 10_000)
        answer = await http.post(f"{front}/topics/plain", content=b"x" * 3_000_000, headers=BINARY)
        error = answer.json()["error"]["code"]
        expect("a body that is too large", (answer.status_code, error), (413, "too_large"))


async def websockets(front):
    ws = front.replace("http", "ws", 1)
    async with connect(f"{ws}/topics/ws") as raw, connect(f"{ws}/ws", subprotocols=["fanfare.v1.json"]) as native:
        expect("the subprotocol", native.subprotocol, "fanfare.v1.json")
        expect("the welcome", json.loads(await native.recv())["type"], "welcome")
        await native.send(json.dumps({"type": "subscribe", "topics": ["ws"]}))
        expect("the acknowledgement", json.loads(await native.recv())["type"], "subscribed")
        await (await raw.ping())
        await raw.send("from a frame")
        expect("its own frame", await raw.recv(), "from a frame")
        expect("the same, native", json.loads(await native.recv()), {"topic": "ws", "offset": 1, "data": "from a frame"})
        large = "x" * 60_000
        await publish("ws", large, "text/plain", url=front)
        expect("a large one", await raw.recv(), large)
        expect("the same, native", json.loads(await native.recv())["data"], large)


async def streams(front):
    """Each message is there before the next one is published: nothing waits for more to come."""
    async with client() as http:
        rows = http.stream("GET", f"{front}/topics/stream", headers={"Accept": "application/x-ndjson"})
        async with rows as rows, aconnect_sse(http, "GET", f"{front}/topics/stream") as source:
            rows, events = rows.aiter_lines(), source.aiter_sse()
            expect("the sign of life, in lines", await anext(rows), "")
            for number in range(1, 6):
                place = await publish("stream", str(number), url=front)
                event = await anext(events)
                expect("the event", (event.id, event.data), (f"{place['epoch']}:{number}", str(number)))
                expect("the line", json.loads(await next_row(rows)), {"topic": "stream", "offset": number, "data": number})
        headers = {"Last-Event-ID": f"{place['epoch']}:3"}
        async with aconnect_sse(http, "GET", f"{front}/topics/stream", headers=headers) as source:
            events = source.aiter_sse()
            expect("what was missed", [(await anext(events)).data for _ in range(2)], ["4", "5"])


async def next_row(rows):
    """The next line that is no sign of life."""
    while not (row := await anext(rows)):
        pass
    return row


async def signs_of_life(front):
    """A silent stream is not silent on its way, either. The story's gateway says something every 3 s."""
    async with client() as http, http.stream("GET", f"{front}/topics/silent", headers={"Accept": "text/event-stream"}) as stream:
        text = ""
        async for piece in stream.aiter_text():
            text += piece
            if text == "retry: 2000\n:ok\n" + 2 * ":\n":
                return
            assert len(text) < 100, text
    raise AssertionError(f"the stream ended after {text!r}")


async def a_publish_stream(front):
    """Each line is published while the request is under way."""
    lines = asyncio.Queue()

    async def body():
        while line := await lines.get():
            yield line

    async with connect(f"{front.replace('http', 'ws', 1)}/topics/live") as reader, aiohttp.ClientSession() as http:
        await (await reader.ping())
        request = http.post(f"{front}/publish", data=body(), headers={"Content-Type": "application/x-ndjson"})
        answer = asyncio.ensure_future(request.__aenter__())
        for number in range(3):
            await lines.put(b'{"topic":"live","data":%d}\n' % number)
            expect("a line on its way", await reader.recv(), str(number))
        await lines.put(b"")
        answer = await answer
        expect("the answer to all", [row["offset"] for row in (await answer.json())["results"]], [1, 2, 3])
        answer.release()


def a_slow_reader(front):
    """It is slow for the gateway, too: what it does not read does not pile up on the way."""
    payload = "x" * 60_000
    with httpx.Client(timeout=PATIENCE) as reader, httpx.Client(timeout=PATIENCE) as writer:
        with connect_sse(reader, "GET", f"{front}/topics/drop.a") as source:
            count = 0
            while count % 20 or not dropped():
                assert count < 2000, "120 MB are on their way to somebody who does not read"
                answer = writer.post(f"{front}/topics/drop.a", content=payload, headers={"Content-Type": "text/plain"})
                count += 1
                expect("the place", answer.json()["offset"], count)
            print(f"slow after {count} messages")
            following, gaps = 1, 0
            for event in source.iter_sse():
                if event.event == "gap":
                    gap = event.json()
                    expect("where the gap begins", gap["from"], following)
                    following, gaps = gap["to"] + 1, gaps + 1
                else:
                    expect("the next place", event.id.partition(":")[2], str(following))
                    following += 1
                if following > count:
                    break
            assert gaps > 0, "messages were dropped, and nobody said so"


def dropped():
    page = fetch(f"{ADMIN}/metrics").decode().splitlines()
    return any(row.startswith("fanfare_dropped_messages_total") and not row.endswith(" 0") for row in page)


def refused(url, headers=None):
    """The status and the answer's text of what should not get through."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def many_topics(front):
    """A long poll waits on its way as long as it has to, and a stream of many topics flows."""
    async with client() as http:
        params = {"topic": "poll.*"}
        answer = (await http.get(f"{front}/poll", params=params)).json()
        expect("the first poll", (answer["gap"], answer["messages"]), (False, []))
        for number in range(1, 4):
            params = {"topic": "poll.*", "cursor": answer["cursor"], "wait": 25}
            waiting = asyncio.create_task(http.get(f"{front}/poll", params=params))
            await asyncio.sleep(0.5)  # It may wait on the other side by now.
            await publish("poll.a", str(number), url=front)
            answer = (await waiting).json()
            expect("what it waited for", answer["messages"][-1], {"topic": "poll.a", "offset": number, "data": number})

        headers = {"If-None-Match": (await http.get(f"{front}/topics/poll.a")).headers["etag"]}
        waiting = asyncio.create_task(http.get(f"{front}/topics/poll.a", params={"wait": 25}, headers=headers))
        await asyncio.sleep(0.5)
        await publish("poll.a", "4", url=front)
        answer = await waiting
        expect("the newest one", (answer.status_code, answer.text), (200, "4"))

        params = [("topic", "poll.a"), ("topic", "born.*"), ("from", "live")]
        async with aconnect_sse(http, "GET", f"{front}/events", params=params) as source:
            events = source.aiter_sse()
            expect("the acknowledgement", (await anext(events)).event, "subscribed")
            for number in range(1, 4):
                for topic, offset in [("poll.a", 4 + number), ("born.later", number)]:
                    await publish(topic, str(number), url=front)
                    while (event := await anext(events)).event != "message":
                        expect("a birth", (event.event, event.json()["topic"]), ("topic", "born.later"))
                    expect("a message", event.json(), {"topic": topic, "offset": offset, "data": number})


async def everything(front):
    silence = asyncio.create_task(signs_of_life(front))
    await requests(front)
    await websockets(front)
    await streams(front)
    await a_publish_stream(front)
    if os.environ.get("FANFARE_EVENTS"):
        await many_topics(front)
    await asyncio.to_thread(a_slow_reader, front)
    await silence
    expect("metrics are not public", (await asyncio.to_thread(refused, f"{front}/metrics"))[0], 403)


async def the_end(front, drain):
    """When the gateway drains, everybody is told so in its own way, and nobody is just cut off."""
    async with client() as http, connect(f"{front.replace('http', 'ws', 1)}/topics/end") as raw:
        async with aconnect_sse(http, "GET", f"{front}/topics/end") as source:
            await (await raw.ping())
            await publish("end", "last", "text/plain", url=front)
            expect("the last message", await raw.recv(), "last")
            drain()
            events = [event.data async for event in source.aiter_sse()]
            expect("the stream to its proper end", events, ["last"])
            try:
                await raw.recv()
                raise AssertionError("a drained gateway goes on")
            except ConnectionClosed as closed:
                expect("the end, raw", (closed.rcvd.code, closed.rcvd.reason), (1012, "draining"))
