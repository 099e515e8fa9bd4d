"""Requests hidden in requests, past a load balancer of deploy/: none reaches the gateway that the balancer has not seen."""

import asyncio
import json
import os
import pathlib
import re
import urllib.error

import balancers
from story import URL, expect, fetch, tell

FORMS = pathlib.Path(os.environ["FANFARE_ROOT"], "crates/gateway/tests/abuse/smuggling.json")
FRONTS = {"haproxy": balancers.haproxy, "nginx": balancers.nginx, "envoy": balancers.envoy}

HIDDEN = "POST /topics/%s HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"

# What is not public: the balancer refuses it in its own words, and a gateway that is asked past it in others.
NOT_PUBLIC = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"

# Nothing more comes, as far as a client can tell.
SILENCE = 0.7


async def conversation(front, text):
    """All that is answered to these bytes."""
    host, port = front.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answered = b""
    try:
        writer.write(text.encode("latin-1"))
        while more := await asyncio.wait_for(reader.read(65536), SILENCE):
            answered += more
    except (TimeoutError, asyncio.TimeoutError, ConnectionError):
        pass
    writer.transport.abort()
    return answered


async def is_published(topic):
    try:
        await asyncio.to_thread(fetch, f"{URL}/topics/{topic}")
        return True
    except urllib.error.HTTPError as error:
        expect(f"the status of {topic}", error.code, 404)
        return False


async def tried(front, number, form, at_once):
    async with at_once:
        topic = f"smug{number:04}"
        answered = await conversation(front, form["request"].replace("HIDDEN", HIDDEN % topic))
        answers = len(re.findall(rb"HTTP/1\.[01] [2-5]\d\d", answered))
        # One that has its own answer was a request of its own to the balancer, too.
        if await is_published(topic) and answers < 2:
            raise AssertionError(f"{form['name']}: smuggled, {answered!r}")
        if "handshake" in form["name"]:
            answered = await conversation(front, form["request"].replace("HIDDEN", NOT_PUBLIC))
            assert b"not_found" not in answered, f"{form['name']}: a tunnel is open, {answered!r}"
        print(form["name"], answers, flush=True)


async def story():
    forms = json.loads(FORMS.read_text())
    front = FRONTS[os.environ["FANFARE_STORY"]]
    async with front(URL.removeprefix("http://")) as front:
        at_once = asyncio.Semaphore(8)
        await asyncio.gather(*(tried(front, number, form, at_once) for number, form in enumerate(forms)))
        # It is well.
        answered = await conversation(front, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        expect("the end", answered.split(b" ")[1], b"200")


tell(story)
