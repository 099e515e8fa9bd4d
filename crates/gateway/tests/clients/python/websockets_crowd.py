"""Two hundred subscribers of one topic: each gets each of fifty messages, in order, whichever worker serves it."""

import asyncio

from websockets.asyncio.client import connect

from story import WS, expect, publish, tell, until_metric

SUBSCRIBERS = 200
MESSAGES = [f'{{"number":{number}}}' for number in range(50)]


async def subscriber(ready):
    async with connect(f"{WS}/topics/crowd", compression=None) as websocket:
        await (await websocket.ping())  # Answered by the session: from here on it listens.
        ready.release()
        return [await websocket.recv() for _ in MESSAGES]


async def story():
    ready = asyncio.Semaphore(0)
    crowd = [asyncio.create_task(subscriber(ready)) for _ in range(SUBSCRIBERS)]
    for _ in crowd:
        await ready.acquire()
    # The kernel spreads connections over the workers; each worker counts the topic once.
    await until_metric("fanfare_subscribed_topics", 2)

    for message in MESSAGES:
        await publish("crowd", message)
    for number, seen in enumerate(await asyncio.gather(*crowd)):
        expect(f"what subscriber {number} saw", seen, MESSAGES)
    await until_metric("fanfare_deliveries_total", SUBSCRIBERS * len(MESSAGES))


tell(story)
