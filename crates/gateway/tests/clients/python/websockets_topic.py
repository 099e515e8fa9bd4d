"""websockets on one topic: every payload arrives as it was posted, behind the topic's last value."""

import asyncio

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from story import WS, expect, publish, tell

# Spaces, digits and escapes are the publisher's; nobody writes them anew.
PRICE = '{ "bid":64000.10, "ask":"64000.20",\t"who":"\\u00e9é" }'


async def the_loop_of_the_tutorial():
    async with connect(f"{WS}/topics/loop") as websocket:
        await publish("loop", PRICE)
        expect("the first message", await websocket.recv(), PRICE)
        await publish("loop", "second", "text/plain")
        expect("the second message", await websocket.recv(), "second")


async def an_async_for_until_the_client_has_enough():
    seen = []
    async with connect(f"{WS}/topics/for") as websocket:
        for number in range(5):
            await publish("for", str(number))
        async for message in websocket:
            seen.append(message)
            if message == "4":
                break
    expect("what the loop saw", seen, ["0", "1", "2", "3", "4"])


async def the_last_value_comes_first():
    await publish("last", "old", "text/plain")
    newest = await publish("last", "newest", "text/plain")
    async with connect(f"{WS}/topics/last") as websocket:
        expect("the last value", await websocket.recv(), "newest")
        await publish("last", "live", "text/plain")
        expect("the live message", await websocket.recv(), "live")
    async with connect(f"{WS}/topics/last?from=live") as websocket:
        await (await websocket.ping())  # Answered by the session: from here on it listens.
        await publish("last", "only this", "text/plain")
        expect("live only", await websocket.recv(), "only this")

    # A client that saw "newest" comes back two messages later: it gets a fresh start, as far as raw can say so.
    place = f"epoch={newest['epoch']}&offset={newest['offset'] + 1}"
    async with connect(f"{WS}/topics/last?{place}") as websocket:
        expect("what was missed", await websocket.recv(), "only this")


async def binary_stays_binary():
    async with connect(f"{WS}/topics/binary") as websocket:
        await publish("binary", b"\x00\xff\xfe", "application/octet-stream")
        expect("the frame", await websocket.recv(), b"\x00\xff\xfe")


async def a_ping_measures_the_way():
    async with connect(f"{WS}/topics/ping") as websocket:
        waiter = await websocket.ping(b"here")
        latency = await asyncio.wait_for(waiter, 10)
        assert 0 <= latency < 10, f"a latency of {latency} s"
        expect("the latency that is kept", websocket.latency, latency)


async def a_close_is_answered_with_its_code():
    websocket = await connect(f"{WS}/topics/close")
    await websocket.close(4321, "enough for today")
    expect("the code that came back", websocket.close_code, 4321)

    websocket = await connect(f"{WS}/topics/close")
    await websocket.close()
    expect("the usual code", websocket.close_code, 1000)
    try:
        await websocket.recv()
        raise AssertionError("a closed connection received")
    except ConnectionClosedOK as closed:
        expect("who said it", (closed.sent.code, closed.rcvd.code), (1000, 1000))


async def what_is_no_topic_is_refused():
    for path in ["/topics/a..b", "/topics/a.*", "/topics/a?from=yesterday", "/topics/a?offset=3"]:
        try:
            await connect(WS + path)
            raise AssertionError(f"{path} was accepted")
        except InvalidStatus as refused:
            expect(f"the status of {path}", refused.response.status_code, 400)
            assert b'"error":{"code":' in refused.response.body, refused.response.body


async def story():
    await the_loop_of_the_tutorial()
    await an_async_for_until_the_client_has_enough()
    await the_last_value_comes_first()
    await binary_stays_binary()
    await a_ping_measures_the_way()
    await a_close_is_answered_with_its_code()
    await what_is_no_topic_is_refused()


tell(story)
