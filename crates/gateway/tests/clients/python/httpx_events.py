"""httpx-sse on a topic: it comes back where it was, a slow reader is told of each gap, a restart is a fresh snapshot."""

import asyncio
import json

import httpx
from httpx_sse import aconnect_sse, connect_sse

from story import PATIENCE, URL, WIRE, expect, publish, stage, tell


async def collect(client, topic, count, last=None):
    """The next `count` events of a topic; `last` is the one that was seen before."""
    events = []
    headers = {"Last-Event-ID": last.id} if last else {}
    async with aconnect_sse(client, "GET", f"{WIRE}/topics/{topic}", headers=headers) as source:
        expect("the status", source.response.status_code, 200)
        async for event in source.aiter_sse():
            events.append(event)
            if len(events) == count:
                return events
    raise AssertionError(f"the stream ended after {events}")


async def back_after_a_cut_and_after_a_restart():
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for number in range(1, 6):
            place = await publish("news", str(number))
        epoch = place["epoch"]
        first = await collect(client, "news", 1)
        expect("the last value", [(event.id, event.data) for event in first], [(f"{epoch}:5", "5")])
        expect("how long to wait before coming back", first[0].retry, 2000)

        # A stream that is cut is an error of the transport, and what was seen is still known.
        seen = []
        try:
            async with aconnect_sse(client, "GET", f"{WIRE}/topics/news") as source:
                async for event in source.aiter_sse():
                    seen.append(event)
                    await stage("cut")
            raise AssertionError("a cut stream ended as if it were whole")
        except httpx.TransportError as error:
            print(f"as it should be: {error!r}")
        for number in range(6, 11):
            await publish("news", str(number))
        await stage("join")
        missed = await collect(client, "news", 5, seen[-1])
        expected = [(f"{epoch}:{number}", str(number)) for number in range(6, 11)]
        expect("what was missed", [(event.id, event.data) for event in missed], expected)

        await stage("restart")
        await publish("news", "21")
        place = await publish("news", "22")
        await stage("join")
        gap, value = await collect(client, "news", 2, missed[-1])
        expect("a word about it", (gap.event, gap.json()["reason"]), ("gap", "reset"))
        expect("a fresh snapshot", (value.id, value.data), (f"{place['epoch']}:2", "22"))
        assert place["epoch"] != epoch, epoch


def a_slow_reader_is_told_of_each_gap():
    count = 400
    payload = "x" * 8000
    with httpx.Client(timeout=PATIENCE) as reader, httpx.Client(timeout=PATIENCE) as writer:
        with connect_sse(reader, "GET", f"{URL}/topics/drop.a") as source:
            for number in range(1, count + 1):
                body = f"{number} {payload}"
                answer = writer.post(f"{URL}/topics/drop.a", content=body, headers={"Content-Type": "text/plain"})
                expect("the place", answer.json()["offset"], number)
            epoch = answer.json()["epoch"]
            following, gaps = 1, 0
            for event in source.iter_sse():
                if event.event == "gap":
                    gap = event.json()
                    expect("where a gap is", (gap["topic"], gap["epoch"], gap["from"]), ("drop.a", epoch, following))
                    assert gap["to"] >= gap["from"], gap
                    expect("its reason", gap["reason"], "slow")
                    following, gaps = gap["to"] + 1, gaps + 1
                else:
                    expect("the next place", event.id, f"{epoch}:{following}")
                    expect("the message", event.data, f"{following} {payload}")
                    following += 1
                if following > count:
                    break
            assert gaps > 0, "it was not slow"
            # What was dropped is still kept for who asks: a gap can be filled.
            place = {"epoch": epoch, "offset": count - 1}
    with httpx.Client(timeout=PATIENCE) as client:
        with connect_sse(client, "GET", f"{URL}/topics/drop.a", params=place) as source:
            expect("what was asked for again", next(source.iter_sse()).id, f"{epoch}:{count}")


async def story():
    await asyncio.to_thread(a_slow_reader_is_told_of_each_gap)
    await back_after_a_cut_and_after_a_restart()


tell(story)
