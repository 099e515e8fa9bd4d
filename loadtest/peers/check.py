#!/usr/bin/env python3
"""Whether peers do what their adapters say, seen by a client of its own: check.py [NAME…]

Each peer is installed, started and subscribed to twice; a thousand messages are published one by one and a thousand in
batches; both subscribers must get all of them, once, in order. Then SIGTERM must end every process that was started."""

import asyncio
import os
import pathlib
import subprocess
import sys
import time
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from field.client import Subscriber, open_publisher
from field.servers import TARGET, Absent, Running, Trouble, install, peer, peer_names, resident_bytes

LIBRARY = "websockets==17.4"
MESSAGES, BATCH = 1000, 20
TOPIC = "check.0"
SECONDS_MAX = 60
# Between the answer to a subscription and the first message: not every server answers after it has subscribed.
SETTLE_SECONDS = 0.3


def main():
    names = sys.argv[1:] or peer_names()
    if unknown := set(names) - set(peer_names()):
        sys.exit(f"no such peers: {', '.join(sorted(unknown))}; there are {', '.join(peer_names())}")
    results = [check(name) for name in names]
    sys.exit(0 if all(results) else 1)


def check(name):
    def say(verdict, text):
        print(f"{name:11} {verdict:7} {text}", flush=True)

    try:
        install(name)
        with Running(peer(name)) as running:
            memory = resident_bytes(running.pids) / 2**20
            began = time.monotonic()
            asyncio.run(asyncio.wait_for(exchange(running), SECONDS_MAX))
            took = time.monotonic() - began
            asked = time.monotonic()
            if left := running.end():
                raise Trouble(f"SIGTERM did not end {left}")
            ended = time.monotonic() - asked
    except Absent as absent:
        say("absent", str(absent))
        return True
    except (Trouble, OSError, ValueError, asyncio.TimeoutError) as trouble:
        say("FAILED", str(trouble) or f"not done within {SECONDS_MAX} s")
        return False
    say("passed", f"{running.version}: {MESSAGES} messages one by one and {MESSAGES} by {BATCH} to two subscribers in {took:.1f} s; "
                  f"{len(running.pids)} process(es), {memory:.0f} MiB at rest; ended in {ended:.2f} s")
    return True


async def exchange(running):
    """Two subscribers, one publisher."""
    adapter = tomllib.loads(running.server.adapter.read_text())
    subscribers = [Subscriber(TOPIC, 2 * MESSAGES), Subscriber(TOPIC, 2 * MESSAGES)]
    readers = [asyncio.create_task(each.run(adapter["subscribe"], running.address)) for each in subscribers]
    try:
        async with asyncio.TaskGroup() as group:
            for each, reader in zip(subscribers, readers):
                group.create_task(first_of(each.ready.wait(), reader))
        await asyncio.sleep(SETTLE_SECONDS)
        publisher = await open_publisher(adapter["publish"], running.publish_address or running.address, TOPIC)
        payloads = [f'{{"check":{number},"bid":"64000.10"}}'.encode() for number in range(2 * MESSAGES)]
        for at in range(0, 2 * MESSAGES, BATCH):
            await publisher.publish(payloads[at:at + BATCH], as_batch=at >= MESSAGES)
        for each, reader in zip(subscribers, readers):
            try:
                await asyncio.wait_for(first_of(each.complete.wait(), reader), 10)
            except asyncio.TimeoutError:
                pass
        publisher.writer.close()
    except* (Trouble, OSError) as troubles:
        raise Trouble(str(troubles.exceptions[0])) from None
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    for each in subscribers:
        if each.numbers != list(range(2 * MESSAGES)):
            wrong = next((at for at, number in enumerate(each.numbers) if at != number), len(each.numbers))
            raise Trouble(f"a subscriber got {len(each.numbers)} messages, and at place {wrong} "
                          f"{each.numbers[wrong:wrong + 3]}")


async def first_of(wanted, other):
    """Waits for `wanted`; if `other`, a task, ends before, that is an error."""
    wanted = asyncio.ensure_future(wanted)
    done, _ = await asyncio.wait([wanted, other], return_when=asyncio.FIRST_COMPLETED)
    if wanted not in done:
        wanted.cancel()
        raise Trouble(f"a subscriber's connection ended: {other.exception() or 'the server closed it'}")


def with_client():
    """Goes on in an environment that has the client library; makes it if it is not there."""
    folder = pathlib.Path(os.environ.get("PEERS_DIR", TARGET / "peers")) / "check"
    python = folder / "bin/python"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", LIBRARY],
                       check=True)
        (folder / "installed").touch()
    os.execv(python, [str(python), *sys.argv])


with_client()
main()
