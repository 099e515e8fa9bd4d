"""Two gateways behind the HAProxy of deploy/haproxy: one leaves, and nobody misses anything.

Nodes know nothing of each other, so each part of the story publishes where its subscriber is.
"""

import contextlib
import json
import os
import signal
import urllib.request

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from processes import free_address, running
from story import URL as FIRST
from story import expect, publish, status, tell, until


def node_of(front):
    """Which node a new connection through the front gets to: each has its own value of this topic."""
    try:
        with urllib.request.urlopen(f"{front}/topics/who", timeout=2) as response:
            return response.read().decode()
    except OSError:
        return None


async def until_the_end(websocket):
    seen = []
    try:
        async for message in websocket:
            seen.append(message)
    except ConnectionClosed as closed:
        return seen, closed.rcvd
    return seen, None


async def story():
    front_address, second_address = free_address(), free_address()
    front, second = f"http://{front_address}", f"http://{second_address}"
    haproxy = [os.environ["FANFARE_HAPROXY"], "-f", os.environ["FANFARE_ROOT"] + "/deploy/haproxy/haproxy.cfg"]
    addresses = {
        "FANFARE_FRONT": front_address,
        "FANFARE_NODE_1": FIRST.removeprefix("http://"),
        "FANFARE_NODE_2": second_address,
    }
    with contextlib.ExitStack() as processes:
        # One node is up: everything goes there.
        processes.enter_context(running([*haproxy, "-q"], **addresses))
        await publish("who", "first", "text/plain", url=FIRST)

        async def first_answers():
            return node_of(front) == "first"

        await until("the front leads to the first node", first_answers)
        raw = await connect(f"ws://{front_address}/topics/news")
        native = await connect(f"ws://{front_address}/ws", subprotocols=["fanfare.v1.json"])
        expect("the subprotocol, through the front", native.subprotocol, "fanfare.v1.json")
        expect("the welcome", json.loads(await native.recv())["type"], "welcome")
        await native.send(json.dumps({"type": "subscribe", "id": 1, "topics": ["news"]}))
        expect("the acknowledgement", json.loads(await native.recv())["id"], 1)
        await publish("news", '"one"', url=front)
        expect("a message, through the front", await raw.recv(), '"one"')
        expect("the same, native", json.loads(await native.recv()), {"topic": "news", "offset": 1, "data": "one"})
        await raw.send("two")
        expect("a frame, through the front", await raw.recv(), "two")
        await native.recv()
        expect("metrics are not public", status(f"{front}/metrics"), 403)

        # The second node comes.
        limits = ["--drain-grace", "10ms", "--drain-window", "10ms"]
        serve = [os.environ["FANFARE_PROGRAM"], "serve", "--listen", second_address, "--admin", "127.0.0.1:0"]
        processes.enter_context(running([*serve, *limits], FANFARE_LOG="error"))

        async def second_is_ready():
            return status(f"{second}/readyz") == 200

        await until("the second node is ready", second_is_ready)
        await publish("who", "second", "text/plain", url=second)

        async def second_answers():
            return node_of(front) == "second"

        await until("the front leads to the second node, too", second_answers)

        # The first one leaves. It is not ready from the first moment, and still there for whoever comes.
        os.kill(int(os.environ["FANFARE_PID"]), signal.SIGTERM)

        async def first_is_leaving():
            return status(f"{FIRST}/readyz") == 503

        await until("the first node is not ready any more", first_is_leaving)

        async def all_go_to_the_second():
            # The front may still have a word to say to a node that is leaving, so this is asked until it is so.
            return all(node_of(front) == "second" for _ in range(20))

        await until("newcomers go to the second node", all_go_to_the_second)
        newcomer = await connect(f"ws://{front_address}/topics/who")
        expect("where a new subscriber is", await newcomer.recv(), "second")

        # Meanwhile those of the first node hear everything, and then goodbye.
        await publish("news", '"three"', url=FIRST)
        expect("the last message, raw", await raw.recv(), '"three"')
        expect("the last message, native", json.loads(await native.recv())["data"], "three")
        seen, end = await until_the_end(raw)
        expect("the end, raw", (seen, end.code, end.reason), ([], 1012, "draining"))
        seen, end = await until_the_end(native)
        expect("the end, native", (end.code, end.reason), (4200, "draining"))
        bye = json.loads(seen[0])
        expect("the goodbye", (len(seen), bye["type"], bye["code"], bye["reason"]), (1, "bye", 4200, "draining"))
        assert 0 < bye["retry_ms"] <= 60_000, bye

        # They come back through the same front.
        async with connect(f"ws://{front_address}/topics/news") as back:
            await publish("news", '"four"', url=second)
            expect("a message after the change", await back.recv(), '"four"')
        await newcomer.close()
    # That the first node ended with code 0 is for its owner to see.


tell(story)
