"""aiohttp as a WebSocket client: raw and native, with heartbeats, and both ways to part."""

import asyncio

import aiohttp
from aiohttp import WSMsgType

from story import URL, expect, publish, tell

HEARTBEAT = 2.0


async def story():
    async with aiohttp.ClientSession(URL) as session:
        await publish("aio", '{"n": 1}')
        async with session.ws_connect("/topics/aio", heartbeat=HEARTBEAT) as websocket:
            expect("the last value", await websocket.receive_json(), {"n": 1})
            # In silence aiohttp pings, and gives up if there is no pong within half a heartbeat.
            receiving = asyncio.create_task(websocket.receive())
            done, _ = await asyncio.wait([receiving], timeout=2 * HEARTBEAT)
            expect("what came in the silence", [task.result() for task in done], [])
            await publish("aio", '{"n": 2}')
            message = await receiving
            expect("the kind of the frame", message.type, WSMsgType.TEXT)
            expect("the message", message.json(), {"n": 2})
            await websocket.ping(b"one by hand")
            await websocket.send_bytes(b"\x00")
            expect("bytes", await websocket.receive_bytes(), b"\x00")
            await websocket.close(code=4000, message=b"bye")
            expect("the close code", websocket.close_code, 4000)

        async with session.ws_connect("/topics/aio") as websocket:
            await websocket.send_str("x" * 70_000)
            async for message in websocket:
                expect("what is left to hear", message.data, b"\x00")  # The last value.
            expect("why the server closed", websocket.close_code, 1009)

        async with session.ws_connect("/ws", protocols=["fanfare.v1.json"]) as websocket:
            expect("the subprotocol", websocket.protocol, "fanfare.v1.json")
            expect("the first frame", (await websocket.receive_json())["type"], "welcome")
            await websocket.send_json({"type": "subscribe", "id": 1, "topics": ["aio.native"]})
            expect("the acknowledgement", (await websocket.receive_json())["id"], 1)
            await publish("aio.native", "[]")
            expect("the message", await websocket.receive_json(), {"topic": "aio.native", "offset": 1, "data": []})

        try:
            await session.ws_connect("/nowhere")
            raise AssertionError("/nowhere was accepted")
        except aiohttp.WSServerHandshakeError as refused:
            expect("a path without a WebSocket", refused.status, 404)


tell(story)
