"""Topics with `websockets`: subscribers on one port; publishers, whom it has no HTTP for, on aiohttp's in the same loop."""

import asyncio
import os
from urllib.parse import urlsplit

import uvloop
import websockets
from aiohttp import web
from websockets.asyncio.server import broadcast, serve

subscribers = {}


async def subscribe(connection):
    topic = urlsplit(connection.request.path).path.removeprefix("/topics/")
    connections = subscribers.setdefault(topic, set())
    connections.add(connection)
    try:
        await connection.wait_closed()
    finally:
        connections.discard(connection)
        if not connections:
            subscribers.pop(topic, None)


async def publish(request):
    body = await request.read()
    messages = body.split(b"\n") if request.query.get("split") == "lines" else [body]
    connections = subscribers.get(request.match_info["topic"], ())
    for message in messages:
        broadcast(connections, message, text=True)
    return web.json_response({"messages": len(messages)})


async def main():
    application = web.Application()
    application.router.add_post("/topics/{topic}", publish)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    port = int(os.environ.get("PORT", 0))
    async with serve(subscribe, "127.0.0.1", port, compression=None, backlog=4096) as server:
        port, publish_port = server.sockets[0].getsockname()[1], runner.addresses[0][1]
        print(f"listening on 127.0.0.1:{port} pids={os.getpid()} version={websockets.__version__} "
              f"publish=127.0.0.1:{publish_port}", flush=True)
        await server.serve_forever()


uvloop.run(main())
