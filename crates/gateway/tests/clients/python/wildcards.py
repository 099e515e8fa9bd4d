"""websockets on /ws with patterns: topics that are born later, one copy of each message, coming back, and silence told.

Topics under `quiet.` have `stale_after = "1s"`.
"""

import contextlib
import json

import httpx
from websockets.asyncio.client import connect

from story import PATIENCE, URL, WS, expect, publish, stage, tell


@contextlib.asynccontextmanager
async def native(*topics):
    """A client that has subscribed, and its acknowledgements."""
    async with connect(f"{WS}/ws") as websocket:
        await receive(websocket)
        yield websocket, await subscribe(websocket, *topics)


async def subscribe(websocket, *topics):
    await websocket.send(json.dumps({"type": "subscribe", "id": 1, "topics": topics}))
    ack = await receive(websocket)
    expect("the acknowledgement", (ack["type"], ack["id"]), ("subscribed", 1))
    return ack["topics"]


async def receive(websocket):
    return json.loads(await websocket.recv())


async def receive_all(websocket, count):
    return [await receive(websocket) for _ in range(count)]


async def a_topic_born_later_comes_from_its_first_message():
    known = await publish("trades.known", "1")
    await publish("trades.deep.er", "1")
    async with native("trades.*") as (websocket, [ack]):
        expect("the acknowledgement", ack, {"topic": "trades.*", "matched": 1})
        event = {"type": "topic", "topic": "trades.known", "epoch": known["epoch"], "offset": 1}
        expect("what it matches", await receive(websocket), event)
        expect("its last value", await receive(websocket), {"topic": "trades.known", "offset": 1, "data": 1})

        for name in ["trades.new", "trades.newer"]:
            for number in range(1, 4):
                place = await publish(name, str(number))
            await publish("trades.deep.er", "unheard", "text/plain")
            event = {"type": "topic", "topic": name, "epoch": place["epoch"], "offset": 0}
            expect("a birth", await receive(websocket), event)
            messages = [{"topic": name, "offset": number, "data": number} for number in range(1, 4)]
            expect("its messages", await receive_all(websocket, 3), messages)

        [ack] = await subscribe(websocket, "trades.new")
        expect("an exact one beside it", (ack["topic"], ack["offset"]), ("trades.new", 3))
        replayed = await receive_all(websocket, ack.get("replay", 0))
        assert all(message["offset"] <= 3 for message in replayed), replayed
        await publish("trades.new", "4")
        await publish("trades.newer", "4")
        copies = [{"topic": name, "offset": 4, "data": 4} for name in ["trades.new", "trades.newer"]]
        expect("one copy of each", await receive_all(websocket, 2), copies)


async def coming_back_with_positions():
    seen = {}
    for name in ["prices.a", "prices.b"]:
        for number in range(1, 4):
            seen[name] = await publish(name, str(number))
    # Of one topic it has seen all, of the other it misses two; and one it never heard of.
    positions = {
        "prices.a": {"epoch": seen["prices.a"]["epoch"], "offset": 3},
        "prices.b": {"epoch": seen["prices.b"]["epoch"], "offset": 1},
    }
    await publish("prices.c", "1")
    async with native({"topic": "prices.>", "positions": positions}) as (websocket, [ack]):
        expect("the acknowledgement", ack, {"topic": "prices.>", "matched": 3, "recovered": True})
        # Three events, two messages that were missed, and a last value, in the order of the topics.
        frames = await receive_all(websocket, 6)
        events = {frame["topic"]: frame for frame in frames if frame.get("type") == "topic"}
        expect("the topics", sorted(events), ["prices.a", "prices.b", "prices.c"])
        for name in positions:
            expect(f"the place of {name}", (events[name]["offset"], events[name]["recovered"]), (3, True))
        messages = {(frame["topic"], frame["offset"]) for frame in frames if "type" not in frame}
        expect("what was missed", messages, {("prices.b", 2), ("prices.b", 3), ("prices.c", 1)})

    positions["prices.a"]["epoch"] = "elsewher"
    async with native({"topic": "prices.>", "positions": positions}) as (websocket, [ack]):
        expect("another life of one", ack["recovered"], False)


async def silence_is_told():
    await publish("quiet.a", "1")
    async with native("quiet.a") as (websocket, _):
        # It may be stale already, and then says so before its last value.
        frames = await receive_all(websocket, 2)
        expect("its last value", [frame["data"] for frame in frames if "type" not in frame], [1])
        [status] = [frame for frame in frames if "type" in frame]
        expect("silence", (status["type"], status["topic"], status["status"]), ("status", "quiet.a", "stale"))
        assert status["age_ms"] >= 1000, status

        async with native("quiet.*") as (other, _):
            kinds = [frame.get("type", "message") for frame in await receive_all(other, 3)]
            expect("a newcomer is told", sorted(kinds), ["message", "status", "topic"])
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            answer = await http.get(f"{URL}/topics/quiet.a")
            expect("the same of the last value", answer.headers["fanfare-status"], "stale")
            assert int(answer.headers["fanfare-age-ms"]) >= 1000 and int(answer.headers["age"]) >= 1, answer.headers

        await publish("quiet.a", "2")
        frames = await receive_all(websocket, 2)
        expect("the message", [frame["data"] for frame in frames if "type" not in frame], [2])
        expect("life", [frame["status"] for frame in frames if "type" in frame], ["live"])
        status = await receive(websocket)
        expect("silence again", (status["type"], status["status"]), ("status", "stale"))


async def topics_are_listed():
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        places = [await publish(f"listed.{name}", "1") for name in "abc"]
        params = {"match": "listed.*", "max": 2}
        page = (await http.get(f"{URL}/topics", params=params)).json()
        expect("the first page", page, {"topics": places[:2], "next": page.get("next")})
        page = (await http.get(f"{URL}/topics", params={**params, "after": page["next"]})).json()
        expect("the second", page, {"topics": places[2:]})
        info = (await http.get(f"{URL}/topics/listed.a/info")).json()
        age = info.pop("age_ms")
        assert age >= 0, age
        expect("one of them", info, {**places[0], "oldest": 1, "subscribers": 0})
        expect("none of them", (await http.get(f"{URL}/topics/listed.z/info")).status_code, 404)


async def a_restart_is_a_fresh_snapshot():
    before = await publish("life.a", "1")
    positions = {"life.a": {"epoch": before["epoch"], "offset": 1}}
    await stage("restart")
    after = await publish("life.a", "7")
    assert after["epoch"] != before["epoch"], after
    async with native({"topic": "life.*", "positions": positions}) as (websocket, [ack]):
        expect("the acknowledgement", ack, {"topic": "life.*", "matched": 1, "recovered": False})
        event = {"type": "topic", "topic": "life.a", "epoch": after["epoch"], "offset": 1, "recovered": False}
        expect("its topic", await receive(websocket), event)
        expect("its last value", await receive(websocket), {"topic": "life.a", "offset": 1, "data": 7})


async def story():
    await a_topic_born_later_comes_from_its_first_message()
    await coming_back_with_positions()
    await silence_is_told()
    await topics_are_listed()
    await a_restart_is_a_fresh_snapshot()


tell(story)
