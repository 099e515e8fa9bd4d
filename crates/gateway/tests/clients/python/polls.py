"""Long polling with httpx and requests: nothing is missed, what is too old is a gap, and one topic by its entity tag.

The story's gateway keeps 50 messages of each topic.
"""

import asyncio
import threading

import httpx
import requests

from story import PATIENCE, URL, expect, publish, tell

COUNT = 200


class Seen:
    """What a loop of polls has seen of each topic; repeats are dropped, and everything else has to be the next one."""

    def __init__(self):
        self.offsets = {}

    def take(self, answer):
        expect("the keys of an answer", sorted(answer), ["cursor", "gap", "messages"])
        for message in answer["messages"]:
            last = self.offsets.get(message["topic"], 0)
            if message["offset"] > last:
                expect(f"the next offset of {message['topic']}", message["offset"], last + 1)
                expect("its payload", message["data"], message["offset"])
                self.offsets[message["topic"]] = message["offset"]

    def is_all(self, topics):
        return self.offsets == dict.fromkeys(topics, COUNT)


async def publish_to(topics):
    for number in range(1, COUNT + 1):
        for topic in topics:
            await publish(topic, str(number))


async def a_loop_of_httpx(topics, params):
    seen = Seen()
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        # The first one has the last values, of which there are none.
        answer = (await http.get(f"{URL}/poll", params=params)).json()
        publisher = asyncio.create_task(publish_to(topics))
        while not seen.is_all(topics):
            answer = await http.get(f"{URL}/poll", params=[*params, ("cursor", answer["cursor"]), ("wait", 25)])
            expect("the status", answer.status_code, 200)
            answer = answer.json()
            expect("a gap", answer["gap"], False)
            seen.take(answer)
        await publisher


def a_loop_of_requests(topic, began):
    seen = Seen()
    with requests.Session() as http:
        answer = http.get(f"{URL}/poll", params={"topic": topic}, timeout=PATIENCE).json()
        began.set()
        while not seen.is_all([topic]):
            params = {"topic": topic, "cursor": answer["cursor"], "wait": 25, "max": 7}
            answer = http.get(f"{URL}/poll", params=params, timeout=PATIENCE).json()
            expect("a gap", answer["gap"], False)
            assert len(answer["messages"]) <= 7, answer
            seen.take(answer)


async def loops_miss_nothing():
    await a_loop_of_httpx(["many.a"], [("topic", "many.a")])
    await a_loop_of_httpx(["wild.a", "wild.b", "exact"], [("topic", "wild.*"), ("topic", "exact")])
    began = threading.Event()
    loop = asyncio.create_task(asyncio.to_thread(a_loop_of_requests, "other", began))
    await asyncio.to_thread(began.wait, PATIENCE)
    await publish_to(["other"])
    await loop


async def poll(http, **params):
    answer = await http.get(f"{URL}/poll", params=params)
    expect("the status", answer.status_code, 200)
    return answer.json()


def offsets(answer):
    return [message["offset"] for message in answer["messages"]]


async def cursors():
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        await publish("kept", "1")
        first = await poll(http, topic="kept")
        expect("the last value at once", (first["gap"], offsets(first)), (False, [1]))
        silence = await poll(http, topic="kept", cursor=first["cursor"], wait=1)
        expect("nothing new in time", (silence["gap"], silence["messages"]), (False, []))
        await publish("kept", "2")
        news = await poll(http, topic="kept", cursor=silence["cursor"], wait=0)
        expect("what is new, at once", (news["gap"], [offset for offset in offsets(news) if offset > 1]), (False, [2]))

        for number in range(3, 101):
            place = await publish("kept", str(number))
        old = await poll(http, topic="kept", cursor=news["cursor"], wait=25)
        expect("after what is not kept any more", (old["gap"], offsets(old)), (True, [100]))
        place = await publish("kept", "101")
        fresh = await poll(http, topic="kept", cursor=old["cursor"], wait=25)
        expect("from there on", (fresh["gap"], offsets(fresh)[-1]), (False, place["offset"]))
        sequence = fresh["cursor"].partition(":")[2]
        other = await poll(http, topic="kept", cursor=f"elsewher:{sequence}", wait=25)
        expect("another life of the gateway", (other["gap"], offsets(other)), (True, [101]))
        for params in [{}, {"topic": "a..b"}, {"topic": "kept", "cursor": "nonsense"}, {"topic": "kept", "wait": "long"}]:
            answer = await http.get(f"{URL}/poll", params=params)
            expect(f"the status of {params}", answer.status_code, 400)


async def one_topic_by_its_tag():
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        await publish("tag", "1")
        answer = await http.get(f"{URL}/topics/tag", params={"wait": 25})
        expect("without a tag, at once", (answer.status_code, answer.text), (200, "1"))
        for number in range(2, 6):
            headers = {"If-None-Match": answer.headers["etag"]}
            waiting = asyncio.create_task(http.get(f"{URL}/topics/tag", params={"wait": 25}, headers=headers))
            await asyncio.sleep(0.05)  # It may be under way by now; it gets the same answer if not.
            await publish("tag", str(number))
            answer = await waiting
            expect("the next one", (answer.status_code, answer.text), (200, str(number)))
        headers = {"If-None-Match": answer.headers["etag"]}
        answer = await http.get(f"{URL}/topics/tag", params={"wait": 1}, headers=headers)
        expect("nothing new in time", (answer.status_code, answer.text), (304, ""))


async def story():
    await loops_miss_nothing()
    await cursors()
    await one_topic_by_its_tag()


tell(story)
