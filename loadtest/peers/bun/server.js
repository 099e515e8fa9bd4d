// Topics with Bun: server.publish, which is the publish of uWebSockets.

const topicOf = (request) => new URL(request.url).pathname.slice('/topics/'.length);

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.env.PORT ?? 0),
  idleTimeout: 120,
  async fetch(request, server) {
    if (request.method === 'GET') {
      const upgraded = server.upgrade(request, { data: { topic: topicOf(request) } });
      return upgraded ? undefined : new Response(null, { status: 426 });
    }
    const body = await request.text();
    const messages = request.url.endsWith('?split=lines') ? body.split('\n') : [body];
    const topic = topicOf(request);
    for (const message of messages) server.publish(topic, message);
    return Response.json({ messages: messages.length });
  },
  websocket: {
    perMessageDeflate: false,
    open(webSocket) {
      webSocket.subscribe(webSocket.data.topic);
    },
    message() {},
  },
});

console.log(`listening on 127.0.0.1:${server.port} pids=${process.pid} version=${Bun.version}`);
