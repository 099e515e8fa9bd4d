"""nginx in front: as deploy/nginx has it, and as it comes, with nothing but the gateway's address."""

import asyncio
import os
import signal

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import carried
from balancers import nginx
from story import URL, expect, publish, tell

GATEWAY = URL.removeprefix("http://")

AS_IT_COMES = """
server {
    listen 127.0.0.1:8000;
    location / { proxy_pass http://127.0.0.1:8080; MORE }
}
"""


async def as_it_comes():
    """HTTP/1.0 to the gateway: requests pass, the rest is refused in words."""
    async with nginx(GATEWAY, AS_IT_COMES.replace("MORE", "")) as front:
        await publish("plain", "1", url=front)
        for accept in ["text/event-stream", "application/x-ndjson"]:
            answer = await asyncio.to_thread(carried.refused, f"{front}/topics/plain", {"Accept": accept})
            expect(accept, (answer[0], "a stream needs HTTP/1.1" in answer[1]), (400, True))
        try:
            await connect(f"{front.replace('http', 'ws', 1)}/ws")
            raise AssertionError("a WebSocket without an upgrade")
        except InvalidStatus as answer:
            expect("the status of /ws", answer.response.status_code, 426)


async def with_http_1_1():
    """Its buffering and its timeouts as they are: the gateway's streams flow, as they ask for it."""
    async with nginx(GATEWAY, AS_IT_COMES.replace("MORE", "proxy_http_version 1.1;")) as front:
        await carried.streams(front)
        await carried.signs_of_life(front)
        await asyncio.to_thread(carried.a_slow_reader, front)


async def as_deployed():
    async with nginx(GATEWAY) as front:
        await carried.everything(front)
        await carried.the_end(front, lambda: os.kill(int(os.environ["FANFARE_PID"]), signal.SIGTERM))


STORIES = {"as_it_comes": [as_it_comes, with_http_1_1], "as_deployed": [as_deployed]}


async def story():
    for part in STORIES[os.environ["FANFARE_STORY"]]:
        await part()


tell(story)
