"""What the stories share: where the gateway is, a bound on how long they take, publishing, and saying what was expected."""

import asyncio
import json
import os
import urllib.error
import urllib.request

URL = os.environ["FANFARE_URL"]
WS = URL.replace("http", "ws", 1)
ADMIN = os.environ["FANFARE_ADMIN"]
# Where the story's own wire leads to the gateway, if it has one.
WIRE = os.environ.get("FANFARE_WIRE")
PATIENCE = 60


def tell(story):
    """Runs a story to its end; one that hangs fails."""
    asyncio.run(asyncio.wait_for(story(), PATIENCE))


def expect(what, actual, expected):
    assert actual == expected, f"{what}:\n  expected {expected!r}\n  got      {actual!r}"


async def publish(topic, payload, content_type="application/json", url=URL):
    """Publishes one message as a plain HTTP client; returns its place: {"topic", "epoch", "offset"}."""
    body = payload if isinstance(payload, bytes) else payload.encode()
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(f"{url}/topics/{topic}", body, headers, method="POST")
    return json.loads(await asyncio.to_thread(fetch, request))


async def stage(what):
    """Does something to the wire or to the gateway behind it: see stage.rs."""
    print(f"stage: {what}", flush=True)
    request = urllib.request.Request(f"{os.environ['FANFARE_STAGE']}/{what}", method="POST")
    await asyncio.to_thread(fetch, request, PATIENCE)


async def until_metric(name, value):
    """Waits for a value on the operators' page: what a client sees may be counted a moment later."""

    async def is_there():
        page = await asyncio.to_thread(fetch, f"{ADMIN}/metrics")
        rows = [row for row in page.decode().splitlines() if row.rpartition(" ")[0] == name]
        print(rows)
        return [float(row.rpartition(" ")[2]) for row in rows] == [value]

    await until(f"{name} is {value}", is_there)


async def until(what, check):
    """Asks again until `check` is true; the story's own bound ends it."""
    print(f"waiting: {what}", flush=True)
    while not await check():
        await asyncio.sleep(0.05)


def fetch(request, patience=10):
    with urllib.request.urlopen(request, timeout=patience) as response:
        return response.read()


def status(url):
    """The status of a GET, or None if nobody answers it."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
