"""websockets, misused: the server closes with the code that says what the client did, and says it in words."""

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from story import WS, expect, publish, tell, until_metric

MESSAGE_BYTES_MAX = 64 * 1024
FRAGMENTS_MAX = 128


async def closed(what, code, misuse, path="/topics/faults"):
    async with connect(WS + path) as websocket:
        await misuse(websocket)
        try:
            async for _ in websocket:  # A welcome may come before the end.
                pass
            raise AssertionError(f"{what}: closed as if nothing had happened")
        except ConnectionClosed as end:
            assert end.rcvd is not None, f"{what}: the connection broke without a close frame"
            expect(f"the code for {what}", end.rcvd.code, code)
            assert 0 < len(end.rcvd.reason) < 123, f"{what} has the reason {end.rcvd.reason!r}"
            print(f"{what}: {end.rcvd.code} {end.rcvd.reason}")


async def too_big(websocket):
    await websocket.send("x" * (MESSAGE_BYTES_MAX + 1))


async def too_big_in_pieces(websocket):
    await websocket.send(["x" * 1024] * 65)


async def too_many_pieces(websocket):
    await websocket.send(["x"] * (FRAGMENTS_MAX + 1))


async def not_utf8(websocket):
    await websocket.send(b"caf\xe9", text=True)


async def half_a_character(websocket):
    await websocket.send([b"caf\xc3", b"!"], text=True)


async def unmasked(websocket):
    websocket.transport.write(b"\x81\x02hi")


async def reserved_bit(websocket):
    websocket.transport.write(b"\xc1\x80\x00\x00\x00\x00")


async def binary(websocket):
    await websocket.send(b"{}")


async def the_largest_message_is_no_fault():
    async with connect(f"{WS}/topics/large") as websocket:
        message = "x" * MESSAGE_BYTES_MAX
        await websocket.send(message)
        expect("the largest message", len(await websocket.recv()), len(message))


async def story():
    await closed("a message that is too big", 1009, too_big)
    await closed("fragments that are too big together", 1009, too_big_in_pieces)
    await closed("too many fragments", 1009, too_many_pieces)
    await closed("text that is not UTF-8", 1007, not_utf8)
    await closed("a character cut by a fragment", 1007, half_a_character)
    await closed("a frame without a mask", 1002, unmasked)
    await closed("a reserved bit", 1002, reserved_bit)
    await closed("binary where only JSON is read", 1003, binary, path="/ws")
    await the_largest_message_is_no_fault()

    # Nothing of all that was published, and nobody else noticed.
    expect("the first message", (await publish("faults", "1"))["offset"], 1)
    await until_metric('fanfare_closes_total{reason="too_big"}', 3)
    await until_metric('fanfare_closes_total{reason="bad_utf8"}', 2)
    await until_metric('fanfare_closes_total{reason="protocol_error"}', 2)
    await until_metric('fanfare_closes_total{reason="wrong_type"}', 1)


tell(story)
