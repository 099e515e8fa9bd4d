"""Topics with Django Channels: a group per topic in the in-memory layer, one Uvicorn process."""

import os
import socket

import channels
import django
import uvicorn
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="nothing is signed with it",
    # The default of 100 messages drops what a burst brings.
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1000}}},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST


class Subscriber(AsyncWebsocketConsumer):
    async def connect(self):
        self.topic = self.scope["url_route"]["kwargs"]["topic"]
        await self.channel_layer.group_add(self.topic, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.topic, self.channel_name)

    async def topic_messages(self, event):
        for message in event["messages"]:
            await self.send(message)


@csrf_exempt
@require_POST
async def publish(request, topic):
    body = request.body.decode()
    messages = body.split("\n") if request.GET.get("split") == "lines" else [body]
    await get_channel_layer().group_send(topic, {"type": "topic.messages", "messages": messages})
    response = JsonResponse({"messages": len(messages)})
    # What CommonMiddleware does, without the thread that each request would wait for.
    response["Content-Length"] = len(response.content)
    return response


urlpatterns = [path("topics/<str:topic>", publish)]
application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": URLRouter([path("topics/<str:topic>", Subscriber.as_asgi())]),
})

listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", 0))), backlog=4096)
print(f"listening on 127.0.0.1:{listener.getsockname()[1]} pids={os.getpid()} version={channels.__version__}", flush=True)
uvicorn.Server(uvicorn.Config(
    application, loop="uvloop", http="httptools", ws="websockets-sansio", ws_per_message_deflate=False,
    access_log=False, log_level="warning", lifespan="off", backlog=4096, timeout_graceful_shutdown=1,
)).run(sockets=[listener])
