"""websockets under permessage-deflate, which it offers by itself: what was posted arrives, and fewer bytes than that."""

import json

from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from story import ADMIN, WS, expect, fetch, publish, tell

BOOK = json.dumps([[f"64000.{number:02}", "0.5"] for number in range(100)])


def metric(name):
    rows = fetch(f"{ADMIN}/metrics").decode().splitlines()
    return next(float(row.rpartition(" ")[2]) for row in rows if row.startswith(name + " "))


def extensions(websocket):
    return [extension.name for extension in websocket.protocol.extensions]


async def both_ways_on_one_topic():
    async with connect(f"{WS}/topics/z.raw") as websocket:
        expect("what was negotiated", extensions(websocket), ["permessage-deflate"])
        before = metric("fanfare_delivery_bytes_total")
        for number in range(10):
            await publish("z.raw", f"[{number},{BOOK}]")
            expect("the message", await websocket.recv(), f"[{number},{BOOK}]")
        taken = metric("fanfare_delivery_bytes_total") - before
        assert 0 < taken < 10 * len(BOOK) / 3, f"{taken} bytes for 10 messages of {len(BOOK)}"
        # It compresses what it sends, too, and gets it back.
        await websocket.send(BOOK)
        expect("its own message", await websocket.recv(), BOOK)
        await websocket.send(iter([BOOK[:100], BOOK[100:]]))
        expect("its own message, in fragments", await websocket.recv(), BOOK)
        await websocket.send(b"\x00" * 60_000)
        expect("its own bytes", await websocket.recv(), b"\x00" * 60_000)


async def commands_are_inflated():
    async with connect(f"{WS}/ws") as websocket:
        await websocket.recv()
        topics = ["z.native", "plain.native"]
        await websocket.send(json.dumps({"type": "subscribe", "topics": topics}))
        expect("the acknowledgement", json.loads(await websocket.recv())["type"], "subscribed")
        for topic in topics:
            await publish(topic, BOOK)
            expect(topic, await websocket.recv(), f'{{"topic":"{topic}","offset":1,"data":{BOOK}}}')


async def a_window_of_its_own():
    for bits, accepted in [(15, True), (12, True), (11, False), (9, False)]:
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=9)
        async with connect(f"{WS}/topics/z.window", compression=None, extensions=[factory]) as websocket:
            expect(f"a window of {bits} bits", extensions(websocket), ["permessage-deflate"] * accepted)
            # As far back as a reference can go.
            text = "".join(f"{number * 7919:08}" for number in range(1000)) * 3
            await websocket.send(text)
            expect("its own message", await websocket.recv(), text)


async def a_bomb_is_too_big():
    # 60 MB in 60 KB.
    async with connect(f"{WS}/ws", max_size=None) as websocket:
        await websocket.recv()
        await websocket.send(b"\x00" * 60_000_000, text=True)
        await websocket.wait_closed()
        expect("the code", websocket.close_code, 1009)


async def story():
    await both_ways_on_one_topic()
    await commands_are_inflated()
    await a_window_of_its_own()
    await a_bomb_is_too_big()


tell(story)
