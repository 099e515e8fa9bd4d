"""Tornado's websocket_connect: messages, a publish, and how it learns of an end."""

from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError, websocket_connect

from story import WS, expect, publish, tell


async def story():
    await publish("tornado", "before", "text/plain")
    websocket = await websocket_connect(f"{WS}/topics/tornado", ping_interval=5)
    expect("the last value", await websocket.read_message(), "before")
    await publish("tornado", "{}")
    expect("a live message", await websocket.read_message(), "{}")
    await websocket.write_message("from here")
    expect("its own message", await websocket.read_message(), "from here")
    await websocket.write_message(b"\x00\x01", binary=True)
    expect("its own bytes", await websocket.read_message(), b"\x00\x01")

    # None is how Tornado says that nothing comes any more.
    await websocket.write_message("x" * 70_000)
    expect("after too big a message", await websocket.read_message(), None)
    expect("why", (websocket.close_code, websocket.close_reason), (1009, "message is too big"))
    try:
        await websocket.write_message("anybody?")
        raise AssertionError("a closed connection took a message")
    except WebSocketClosedError:
        pass

    native = await websocket_connect(f"{WS}/ws", subprotocols=["fanfare.v1.json"])
    expect("the subprotocol", native.selected_subprotocol, "fanfare.v1.json")
    assert '"type":"welcome"' in await native.read_message()
    native.close(4000, "enough")
    expect("after the goodbye", await native.read_message(), None)

    try:
        await websocket_connect(f"{WS}/topics/a..b")
        raise AssertionError("a..b was accepted")
    except HTTPClientError as refused:
        expect("what is no topic", refused.code, 400)


tell(story)
