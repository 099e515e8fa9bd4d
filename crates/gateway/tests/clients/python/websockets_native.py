"""websockets on /ws: many topics on one socket, by name, with places, acknowledgements and errors."""

import json
import time

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from story import WS, expect, publish, tell

SUBPROTOCOL = "fanfare.v1.json"


class Client:
    def __init__(self, websocket):
        self.websocket = websocket

    async def send(self, **command):
        await self.websocket.send(json.dumps(command))

    async def receive(self):
        return json.loads(await self.websocket.recv())

    async def ask(self, **command):
        await self.send(**command)
        return await self.receive()


def native(path="/ws"):
    return connect(WS + path, subprotocols=[SUBPROTOCOL])


async def subscribe_listen_and_leave():
    one = await publish("native.one", '{"last": 1.50}')
    async with native() as websocket:
        expect("the subprotocol", websocket.subprotocol, SUBPROTOCOL)
        client = Client(websocket)
        welcome = await client.receive()
        expect("the keys of the welcome", list(welcome), ["type", "client", "ping", "max_message"])
        expect("what it says", (welcome["type"], welcome["ping"], welcome["max_message"]), ("welcome", 25, 65536))

        ack = await client.ask(type="subscribe", id=1, topics=["native.one", {"topic": "native.two"}, "no topic"])
        expect("the acknowledgement", (ack["type"], ack["id"]), ("subscribed", 1))
        known, empty, refused = ack["topics"]
        expect("a topic with a value", known, {"topic": "native.one", "epoch": one["epoch"], "offset": 1, "replay": 1})
        expect("a topic without", (empty["topic"], empty["offset"]), ("native.two", 0))
        expect("a name that is none", (refused["topic"], refused["error"]["code"]), ("no topic", "bad_topic"))

        frame = await websocket.recv()
        expect("the last value, byte for byte", frame, '{"topic":"native.one","offset":1,"data":{"last": 1.50}}')
        await publish("native.two", "[1,\n2]")
        frame = await websocket.recv()
        expect("a live message on one line", frame, '{"topic":"native.two","offset":1,"data":[1, 2]}')
        await publish("native.two", "plain", "text/plain")
        expect("text", await client.receive(), {"topic": "native.two", "offset": 2, "data": "plain"})
        await publish("native.two", b"\x00\xff", "application/octet-stream")
        expect("bytes", await client.receive(), {"topic": "native.two", "offset": 3, "data64": "AP8="})

        left = await client.ask(type="unsubscribe", id=2, topics=["native.one", "native.none"])
        expect("what is left", left, {"type": "unsubscribed", "id": 2, "topics": ["native.one"]})
        await publish("native.one", '"unheard"')
        await publish("native.two", '"heard"')
        expect("the next message", await client.receive(), {"topic": "native.two", "offset": 4, "data": "heard"})


async def publish_and_ping():
    async with native() as reader, native() as writer:
        reader, writer = Client(reader), Client(writer)
        await reader.receive(), await writer.receive()
        await reader.ask(type="subscribe", topics=["native.chat"])

        published = await writer.ask(type="publish", id=7, topic="native.chat", data={"text": "hi"}, event="said")
        expect("the place", (published["type"], published["id"], published["offset"]), ("published", 7, 1))
        message = {"topic": "native.chat", "offset": 1, "event": "said", "data": {"text": "hi"}}
        expect("the message", await reader.receive(), message)

        pong = await writer.ask(type="ping", id=8)
        expect("the pong", (pong["type"], pong["id"]), ("pong", 8))
        assert abs(pong["time"] / 1000 - time.time()) < 60, f"the server's clock says {pong['time']}"


async def mistakes_are_answered_and_forgiven():
    mistakes = [
        ("not JSON", "{", None, "bad_request"),
        ("no object", "[1]", None, "bad_request"),
        ("an unknown type", '{"type":"shout","id":3}', 3, "bad_request"),
        ("a missing key", '{"type":"publish","id":4,"topic":"t"}', 4, "bad_request"),
        ("a topic that is none", '{"type":"publish","id":5,"topic":"a..b","data":1}', 5, "bad_topic"),
        ("a wrong start", '{"type":"subscribe","id":6,"topics":[{"topic":"t","from":"now"}]}', 6, "bad_request"),
    ]
    async with native() as websocket:
        client = Client(websocket)
        await client.receive()
        for what, text, id, code in mistakes:
            await websocket.send(text)
            error = await client.receive()
            expect(f"the answer to {what}", (error["type"], error.get("id"), error["code"]), ("error", id, code))
        many = [f"many.{number}" for number in range(257)]
        expect("too many topics", (await client.ask(type="subscribe", id=9, topics=many))["code"], "limit")
        expect("and all is well", (await client.ask(type="ping"))["type"], "pong")


async def coming_back_after_a_pause():
    first = await publish("native.resume", "1")
    await publish("native.resume", "2")

    async def come_back(offset, epoch=first["epoch"]):
        async with native() as websocket:
            client = Client(websocket)
            await client.receive()
            wanted = {"topic": "native.resume", "epoch": epoch, "offset": offset}
            ack = (await client.ask(type="subscribe", topics=[wanted]))["topics"][0]
            replay = [(await client.receive())["offset"] for _ in range(ack.get("replay", 0))]
            expect("where it stands", (ack["epoch"], ack["offset"]), (first["epoch"], 2))
            return ack["recovered"], replay

    expect("nothing missed", await come_back(2), (True, []))
    expect("one missed", await come_back(1), (True, [2]))
    expect("another life of the gateway", await come_back(1, "other"), (False, [2]))
    expect("from the future", await come_back(9), (False, [2]))


async def subprotocols():
    async with connect(f"{WS}/ws") as websocket:
        expect("none asked for, none chosen", websocket.subprotocol, None)
        expect("and it is JSON", (await Client(websocket).receive())["type"], "welcome")
    async with connect(f"{WS}/ws", subprotocols=["mqtt", SUBPROTOCOL]) as websocket:
        expect("the known one of several", websocket.subprotocol, SUBPROTOCOL)
    for path in ["/ws", "/topics/native.one"]:
        try:
            await connect(WS + path, subprotocols=["mqtt"])
            raise AssertionError(f"{path} speaks MQTT")
        except InvalidStatus as refused:
            expect(f"an unknown one on {path}", refused.response.status_code, 400)


async def story():
    await subscribe_listen_and_leave()
    await publish_and_ping()
    await mistakes_are_answered_and_forgiven()
    await coming_back_after_a_pause()
    await subprotocols()


tell(story)
