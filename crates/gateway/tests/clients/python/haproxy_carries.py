"""HAProxy as deploy/haproxy has it, in front of one gateway."""

import os
import signal

import carried
from balancers import haproxy
from story import URL, tell


async def story():
    async with haproxy(URL.removeprefix("http://")) as front:
        await carried.everything(front)
        await carried.the_end(front, lambda: os.kill(int(os.environ["FANFARE_PID"]), signal.SIGTERM))


tell(story)
