"""HAProxy as deploy/haproxy has it, in front of one gateway."""

import asyncio
import os
import signal

import carried
from processes import free_address, running
from story import URL, status, tell, until


async def story():
    front = free_address()
    addresses = {
        "FANFARE_FRONT": front,
        "FANFARE_NODE_1": URL.removeprefix("http://"),
        "FANFARE_NODE_2": free_address(),  # Nobody is there.
    }
    haproxy = [os.environ["FANFARE_HAPROXY"], "-q", "-f", os.environ["FANFARE_ROOT"] + "/deploy/haproxy/haproxy.cfg"]
    with running(haproxy, **addresses):
        front = f"http://{front}"

        async def is_ready():
            return await asyncio.to_thread(status, f"{front}/readyz") == 200

        await until("HAProxy is ready", is_ready)
        await carried.everything(front)
        await carried.the_end(front, lambda: os.kill(int(os.environ["FANFARE_PID"]), signal.SIGTERM))


tell(story)
