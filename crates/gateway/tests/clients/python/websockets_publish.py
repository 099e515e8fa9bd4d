"""websockets as a publisher: a frame sent on a topic's WebSocket is a message of that topic."""

import urllib.request

from websockets.asyncio.client import connect

from story import URL, WS, expect, fetch, tell


async def story():
    async with connect(f"{WS}/topics/chat") as anna, connect(f"{WS}/topics/chat") as ben:
        await anna.send("Hello, Ben!")
        expect("what Ben hears", await ben.recv(), "Hello, Ben!")
        expect("what Anna hears of herself", await anna.recv(), "Hello, Ben!")

        await ben.send(["A message ", "in three ", "fragments"])
        expect("fragments, joined", await anna.recv(), "A message in three fragments")

        await ben.send(b"\x01\x02\x03")
        expect("a binary frame", await anna.recv(), b"\x01\x02\x03")

        for number in range(100):
            await anna.send(f"line {number}")
        heard = [await ben.recv() for _ in range(102)]
        expect("what Ben hears of himself", heard[:2], ["A message in three fragments", b"\x01\x02\x03"])
        expect("a hundred lines in order", heard[2:], [f"line {number}" for number in range(100)])

    expect("the last value over HTTP", fetch(f"{URL}/topics/chat"), b"line 99")
    with urllib.request.urlopen(f"{URL}/topics/chat", timeout=10) as response:
        expect("its place", response.headers["fanfare-offset"], "103")
        expect("its type", response.headers["content-type"], "text/plain; charset=utf-8")


tell(story)
