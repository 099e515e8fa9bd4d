"""Both gateways behind a HAProxy are restarted, one after the other, while publishers post and subscribers listen.

A topic is a gateway's own, so one gateway serves at a time: the second is `backup` in the words of deploy/haproxy, and has
everybody while the first is away. Publishers repeat a publish once, where it was refused or nobody answered. Subscribers come
back as docs/PROTOCOL.md says, and begin with all that the gateway they find has kept. In the end everybody must have seen
every message that was acknowledged with 200.

    FANFARE_ROLLING   subscribers of each of three kinds [12]
"""

import asyncio
import collections
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
import uuid

import aiohttp

from processes import free_address, running
from story import expect, status, tell, until

SUBSCRIBERS = int(os.environ.get("FANFARE_ROLLING", "12"))
TOPICS = ["news.a", "news.b", "news.c"]
# Of each publisher, one for each topic. Until everybody has come back, a ring of 1,000 messages must hold them.
INTERVAL = 0.05
GRACE, WINDOW = 2.0, 3.0
ANY_TIME = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)


def balancer_configuration(folder):
    """deploy/haproxy, with the second gateway as the first one's backup, and with more frequent looks at both."""
    with open(os.environ["FANFARE_ROOT"] + "/deploy/haproxy/haproxy.cfg") as file:
        text = file.read()
    text, backups = re.subn(r"(?m)^(\s*server node_2 .*)$", r"\1 backup", text)
    text, looks = re.subn(r"\bcheck inter 1s\b", "check inter 200ms", text)
    assert backups > 0 and looks > 0, "the balancer's configuration is not what it was"
    path = os.path.join(folder, "haproxy.cfg")
    with open(path, "w") as file:
        file.write(text)
    return path


class Node:
    """A gateway that can be restarted in its place."""

    def __init__(self, name):
        self.name, self.address, self.process = name, free_address(), None

    @property
    def url(self):
        return f"http://{self.address}"

    async def start(self):
        limits = ["--drain-grace", f"{GRACE * 1000:.0f}ms", "--drain-window", f"{WINDOW * 1000:.0f}ms"]
        serve = [os.environ["FANFARE_PROGRAM"], "serve", "--listen", self.address, "--admin", "127.0.0.1:0"]
        environment = {**os.environ, "FANFARE_LOG": "error"}
        for name in ("FANFARE_URL", "FANFARE_ADMIN"):
            environment.pop(name, None)
        self.process = subprocess.Popen([*serve, "--workers", "2", *limits], env=environment)

        async def is_ready():
            return await asyncio.to_thread(status, f"{self.url}/readyz") == 200

        await until(f"{self.name} is ready", is_ready)

    async def leave(self):
        """SIGTERM, up to the end of the process."""
        print(f"{self.name} leaves", flush=True)
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, 30)
        expect(f"the end of {self.name}", code, 0)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Publisher:
    """Posts numbers to a topic until it is told to end."""

    def __init__(self, session, front, topic):
        self.session, self.url, self.topic = session, f"{front}/topics/{topic}", topic
        self.acknowledged, self.unclear, self.repeats, self.failed = set(), set(), 0, []

    async def run(self, ended):
        number = 0
        while not ended.is_set():
            number += 1
            # One gateway answers a repeat as it did the first time; the other one does not know it.
            key = {"Idempotency-Key": uuid.uuid4().hex}
            first = await self.post(number, key)
            if first != 200:
                self.repeats += 1
                self.unclear.add(number)
                await asyncio.sleep(random.uniform(0.05, 0.3))
                second = await self.post(number, key)
                if second != 200:
                    self.failed.append((number, first, second))
                    continue
            self.acknowledged.add(number)
            await asyncio.sleep(INTERVAL)

    async def post(self, number, headers):
        try:
            async with self.session.post(self.url, json=number, headers=headers) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return repr(error)


class Subscriber:
    """Listens to a topic through every end of its connection."""

    def __init__(self, session, front, topic):
        self.session, self.front, self.topic = session, front, topic
        # By the place at which each came.
        self.seen = {}
        self.numbers = set()
        self.connections, self.ends, self.retry = 0, [], 0.5
        # The last offset of each epoch that came on this connection.
        self.last = {}

    async def run(self):
        while True:
            self.connections += 1
            self.retry = random.uniform(0.1, 1.0)
            self.last = {}
            try:
                await self.listen()
            except (aiohttp.ClientError, asyncio.TimeoutError):
                pass
            self.ends.append(time.monotonic())
            await asyncio.sleep(self.retry)

    def take(self, epoch, offset, number):
        """Within a connection offsets rise by one; on the next one all that is kept comes again."""
        last = self.last.get(epoch)
        assert last is None or offset == last + 1, f"{self.topic}: {offset} of {epoch} behind {last}"
        self.last[epoch] = offset
        known = self.seen.setdefault((epoch, offset), number)
        assert known == number, f"{self.topic}: {number} at {offset} of {epoch}, where {known} was"
        self.numbers.add(number)


class WebSocket(Subscriber):
    async def listen(self):
        url = f"{self.front}/ws"
        async with self.session.ws_connect(url, protocols=["fanfare.v1.json"], autoping=True) as socket:
            epoch = None
            async for frame in socket:
                event = json.loads(frame.data)
                match event.get("type"):
                    case "welcome":
                        wanted = {"topic": self.topic, "from": "earliest"}
                        await socket.send_json({"type": "subscribe", "id": 1, "topics": [wanted]})
                    case "subscribed":
                        epoch = event["topics"][0]["epoch"]
                    case "bye":
                        self.retry = event["retry_ms"] / 1000
                    case None:
                        self.take(epoch, event["offset"], event["data"])
                    case kind:
                        raise AssertionError(f"{kind} is not expected here: {event}")


class EventStream(Subscriber):
    async def listen(self):
        # Without Last-Event-ID: the place would be one of another gateway's, and the stream begin with the last value.
        url = f"{self.front}/topics/{self.topic}?from=earliest"
        async with self.session.get(url, headers={"Accept": "text/event-stream"}) as response:
            if response.status != 200:
                return
            place = None
            async for line in response.content:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "retry":
                    # The first one is for those that lose their connection without a word.
                    self.retry = int(value) / 1000
                elif field == "id":
                    place = value.split(":")
                elif field == "data":
                    self.take(place[0], int(place[1]), json.loads(value))
                elif field == "event":
                    raise AssertionError(f"{value} is not expected here")


class Poll(Subscriber):
    async def listen(self):
        cursor = None
        while True:
            query = {"topic": self.topic, "wait": "20"} | ({"cursor": cursor} if cursor else {"wait": "0"})
            async with self.session.get(f"{self.front}/poll", params=query) as response:
                if response.status != 200:
                    return
                answer = await response.json()
            epoch, number = answer["cursor"].split(":")
            if cursor is None or answer["gap"]:
                # A gateway that is new to it: all that this one keeps is behind its beginning.
                cursor, self.last = f"{epoch}:0", {}
                continue
            cursor = answer["cursor"]
            for message in answer["messages"]:
                self.take(epoch, message["offset"], message["data"])


def check_spread(name, ends):
    """The goodbyes of a gateway are spread over its window: told in tenths of it, by their order and not by a clock's word."""
    begin = min(ends)
    tenths = collections.Counter(min(int((end - begin) / WINDOW * 10), 10) for end in ends)
    print(f"{name} said goodbye to {len(ends)}, by tenths of its window:",
          " ".join(str(tenths[tenth]) for tenth in range(11)), flush=True)
    assert len(tenths) >= 4 and max(tenths.values()) <= len(ends) * 0.6, f"{name} let them go together: {tenths}"


async def story():
    front_address, first, second = free_address(), Node("the first gateway"), Node("the second gateway")
    front = f"http://{front_address}"
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for node in (first, second):
            stack.callback(node.kill)
            await node.start()
        haproxy = [os.environ["FANFARE_HAPROXY"], "-q", "-f", balancer_configuration(folder)]
        many = str(10 * SUBSCRIBERS + 1000)
        stack.enter_context(running(haproxy, FANFARE_FRONT=front_address, FANFARE_NODE_1=first.address,
                                    FANFARE_NODE_2=second.address, FANFARE_ADDRESS_CONNECTIONS=many,
                                    FANFARE_ADDRESS_CONNECTIONS_10S=many))

        async def is_ready():
            return await asyncio.to_thread(status, f"{front}/readyz") == 200

        await until("the balancer is ready", is_ready)
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=ANY_TIME))
        publishers = [Publisher(session, front, topic) for topic in TOPICS]
        kinds = [WebSocket, EventStream, Poll]
        subscribers = [kind(session, front, TOPICS[place % len(TOPICS)])
                       for kind in kinds for place in range(SUBSCRIBERS)]
        streams = [subscriber for subscriber in subscribers if not isinstance(subscriber, Poll)]
        ended = asyncio.Event()
        posting = [asyncio.create_task(publisher.run(ended)) for publisher in publishers]
        listening = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
        for task in posting + listening:
            stack.callback(task.cancel)

        async def check_tasks():
            for task in listening + posting:
                if task.done():
                    task.result()

        async def everybody_is_there(before):
            await check_tasks()
            fresh = [s for s in subscribers if s.last and s.connections > before.get(s, 0)]
            return len(fresh) == len(subscribers)

        await until("everybody listens", lambda: everybody_is_there({}))
        for node in (first, second):
            ends = {s: len(s.ends) for s in streams}
            before = {s: s.connections for s in streams}
            await node.leave()
            check_spread(node.name, [s.ends[count] for s, count in ends.items()])
            # Not before: who comes back late would never see what the other one was given meanwhile.
            await until("everybody is back", lambda: everybody_is_there(before))
            await node.start()
        # Everybody is with the first gateway, which has another life since.
        ended.set()
        await asyncio.gather(*posting)

        def missing():
            rows = []
            for subscriber in subscribers:
                publisher = publishers[TOPICS.index(subscriber.topic)]
                rows.append(publisher.acknowledged - subscriber.numbers)
            return rows

        async def nothing_is_missing():
            await check_tasks()
            return not any(missing())

        try:
            await asyncio.wait_for(until("everybody has everything", nothing_is_missing), 10)
        except asyncio.TimeoutError:
            for subscriber, rows in zip(subscribers, missing()):
                if rows:
                    print(type(subscriber).__name__, subscriber.topic, "misses", sorted(rows)[:20], flush=True)
            raise
        for publisher in publishers:
            print(f"{publisher.topic}: {len(publisher.acknowledged)} acknowledged, {publisher.repeats} repeated", flush=True)
            expect(f"publishes that failed twice, of {publisher.topic}", publisher.failed, [])
        for subscriber in subscribers:
            # What came at two places was published twice: only where nobody knew whether the first had been.
            times = collections.Counter(subscriber.seen.values())
            twice = {number for number, count in times.items() if count > 1}
            publisher = publishers[TOPICS.index(subscriber.topic)]
            assert twice <= publisher.unclear, f"published twice: {twice - publisher.unclear}"


tell(story)
