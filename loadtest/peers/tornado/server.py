"""Topics with Tornado: its own HTTP server takes the posts, its WebSocketHandler holds the subscribers."""

import asyncio
import os

import tornado
import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

subscribers = {}


class Topic(WebSocketHandler):
    def open(self, topic):
        self.topic = topic
        self.set_nodelay(True)
        subscribers.setdefault(topic, set()).add(self)

    def on_message(self, message):
        pass

    def on_close(self):
        handlers = subscribers[self.topic]
        handlers.discard(self)
        if not handlers:
            del subscribers[self.topic]

    def post(self, topic):
        body = self.request.body
        messages = body.split(b"\n") if self.get_query_argument("split", None) == "lines" else [body]
        for handler in subscribers.get(topic, ()):
            try:
                for message in messages:
                    handler.write_message(message)
            except WebSocketClosedError:
                pass
        self.finish({"messages": len(messages)})


async def main():
    application = Application([(r"/topics/([^/]+)", Topic)], log_function=lambda handler: None, websocket_ping_interval=20)
    server = HTTPServer(application)
    [socket] = bind_sockets(int(os.environ.get("PORT", 0)), "127.0.0.1", backlog=4096)
    server.add_socket(socket)
    print(f"listening on 127.0.0.1:{socket.getsockname()[1]} pids={os.getpid()} version={tornado.version}", flush=True)
    await asyncio.Event().wait()


uvloop.run(main())
