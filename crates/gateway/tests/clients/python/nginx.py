"""nginx in front: as deploy/nginx has it, and as it comes, with nothing but the gateway's address."""

import asyncio
import contextlib
import getpass
import os
import pathlib
import signal
import tempfile

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import carried
from processes import free_address, running
from story import URL, expect, publish, status, tell, until

GATEWAY = URL.removeprefix("http://")

# What an installation has around a site's own configuration. Names of files are looked up in the folder given by -p.
AROUND = """
daemon off;
USER
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
"""

AS_IT_COMES = """
server {
    listen 127.0.0.1:8000;
    location / { proxy_pass http://127.0.0.1:8080; MORE }
}
"""


@contextlib.asynccontextmanager
async def nginx(site):
    """Where an nginx listens that has this configuration but for its addresses."""
    front = free_address()
    for default, address in [("listen 127.0.0.1:8000", f"listen {front}"), ("127.0.0.1:8080", GATEWAY)]:
        expect(f"how often the configuration says {default}", site.count(default), 1)
        site = site.replace(default, address)
    with tempfile.TemporaryDirectory() as folder:
        # Only root may, and has to say who its workers are.
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        pathlib.Path(folder, "nginx.conf").write_text(AROUND.replace("USER", user))
        pathlib.Path(folder, "site.conf").write_text(site)
        with running([os.environ["FANFARE_NGINX"], "-e", "stderr", "-p", folder, "-c", "nginx.conf"]):

            async def is_ready():
                return await asyncio.to_thread(status, f"http://{front}/readyz") == 200

            await until("nginx is ready", is_ready)
            yield f"http://{front}"


async def as_it_comes():
    """HTTP/1.0 to the gateway: requests pass, the rest is refused in words."""
    async with nginx(AS_IT_COMES.replace("MORE", "")) as front:
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
    async with nginx(AS_IT_COMES.replace("MORE", "proxy_http_version 1.1;")) as front:
        await carried.streams(front)
        await carried.signs_of_life(front)
        await asyncio.to_thread(carried.a_slow_reader, front)


async def as_deployed():
    site = pathlib.Path(os.environ["FANFARE_ROOT"], "deploy/nginx/fanfare.conf").read_text()
    async with nginx(site) as front:
        await carried.everything(front)
        await carried.the_end(front, lambda: os.kill(int(os.environ["FANFARE_PID"]), signal.SIGTERM))


STORIES = {"as_it_comes": [as_it_comes, with_http_1_1], "as_deployed": [as_deployed]}


async def story():
    for part in STORIES[os.environ["FANFARE_STORY"]]:
        await part()


tell(story)
