"""aiohttp as a publisher: one message, lines, many topics at once, and a stream that stays open."""

import asyncio
import json

import aiohttp

from story import URL, expect, tell

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


async def post(session, path, data, headers=JSON, status=200):
    async with session.post(path, data=data, headers=headers) as response:
        expect(f"the status of {path}", response.status, status)
        return await response.json(), response.headers


async def one_message(session):
    answer, _ = await post(session, "/topics/post", b'{"bid":"64000.10"}')
    expect("its place", (answer["topic"], answer["offset"]), ("post", 1))
    assert answer["epoch"], answer

    repeat = {**JSON, "Idempotency-Key": "once"}
    first, headers = await post(session, "/topics/post", b"2", repeat)
    expect("a first time", headers.get("Idempotent-Replayed"), None)
    again, headers = await post(session, "/topics/post", b"2", repeat)
    expect("a second time is the first one", again, first)
    expect("and says so", headers.get("Idempotent-Replayed"), "true")


async def lines(session, listener):
    text = {"Content-Type": "text/plain"}
    answer, _ = await post(session, "/topics/lines?split=lines", "un\n\ndeux\r\ntrois", text)
    expect("their places", (answer["first"], answer["offset"], answer["count"]), (1, 3, 3))
    expect("the lines", [await listener.receive_str() for _ in range(3)], ["un", "deux", "trois"])

    # All of a body, or nothing of it.
    answer, _ = await post(session, "/topics/lines?split=lines", '{"a":1}\n{oops\n', NDJSON, status=400)
    assert answer["error"]["message"].startswith("line 2: "), answer
    answer, _ = await post(session, "/topics/lines?split=lines", '{"a":1}\n{"b":2}\n', NDJSON)
    expect("the next places", (answer["first"], answer["offset"]), (4, 5))
    expect("the JSON lines", [await listener.receive_str() for _ in range(2)], ['{"a":1}', '{"b":2}'])


async def many_topics(session):
    items = [
        '{"topic":"many.a","data":{"x": 1.0}}',
        '{"topic":"bad topic","data":1}',
        '{"topics":["many.a","many.b"],"data":"both"}',
        '{"data":"nowhere"}',
    ]
    places = [("many.a", 1), ("bad topic", "bad_topic"), ("many.a", 2), ("many.b", 1), (None, "bad_request")]
    answer, _ = await post(session, "/publish", "\n".join(items), NDJSON)
    found = [(item.get("topic"), item.get("offset") or item["error"]["code"]) for item in answer["results"]]
    expect("the results of NDJSON", (answer["errors"], found), (True, places))

    answer, _ = await post(session, "/publish", "[" + ",".join(items[:1] + items[2:3]) + "]")
    found = [(item["topic"], item["offset"]) for item in answer["results"]]
    expect("the results of JSON", (answer["errors"], found), (False, [("many.a", 3), ("many.a", 4), ("many.b", 2)]))
    async with session.get("/topics/many.b") as response:
        expect("the payload, as it stood", await response.text(), '"both"')

    answer, _ = await post(session, "/publish", "x", {"Content-Type": "text/plain"}, status=415)
    expect("another type", answer["error"]["code"], "unsupported_media_type")


async def a_stream_that_stays_open(session, listener):
    more = asyncio.Queue(maxsize=1)

    async def body():
        while (piece := await more.get()) is not None:
            yield piece

    stream = asyncio.create_task(post(session, "/publish", body(), NDJSON))
    for number in range(3):
        await more.put(f'{{"topic":"stream","data":{number}}}\n'.encode())
        expect("a line of the open body", await listener.receive_str(), str(number))
        assert not stream.done(), "the answer came before the end"
    # A line ends where its line feed is, wherever the network cut it.
    await more.put(b'{"topic":"stre')
    await more.put(b'am","data":3}\n{"topic":"stream","data":4}')
    expect("a line in two pieces", await listener.receive_str(), "3")
    await more.put(None)
    expect("a last line without its end", await listener.receive_str(), "4")
    answer, _ = await stream
    expect("the results", [result["offset"] for result in answer["results"]], [1, 2, 3, 4, 5])


async def story():
    async with aiohttp.ClientSession(URL) as session:
        await one_message(session)
        async with session.ws_connect("/topics/lines") as listener:
            await lines(session, listener)
        await many_topics(session)
        async with session.ws_connect("/topics/stream") as listener:
            await a_stream_that_stays_open(session, listener)
        expect("what the answer is", json.loads((await (await session.get("/topics/stream")).read())), 4)


tell(story)
