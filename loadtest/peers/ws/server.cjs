// Topics with `ws`: Node's HTTP server takes the posts and hands upgrades over.
'use strict';

const http = require('node:http');
const { WebSocketServer, WebSocket } = require('ws');
const { version } = require('ws/package.json');

const subscribers = new Map();
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, clientTracking: false });
const TEXT = { binary: false };

const topicOf = (request) => new URL(request.url, 'http://topics').pathname.slice('/topics/'.length);

function subscribe(topic, client) {
  let clients = subscribers.get(topic);
  if (!clients) subscribers.set(topic, (clients = new Set()));
  clients.add(client);
  client.webSocket.on('error', () => {});
  client.webSocket.on('close', () => {
    clients.delete(client);
    if (clients.size === 0) subscribers.delete(topic);
  });
}

function publish(topic, messages) {
  for (const { webSocket, socket } of subscribers.get(topic) ?? []) {
    if (webSocket.readyState !== WebSocket.OPEN) continue;
    // All messages of a post leave in one writev.
    socket.cork();
    for (const message of messages) webSocket.send(message, TEXT);
    socket.uncork();
  }
}

function lines(body) {
  const found = [];
  for (let start = 0; start <= body.length; ) {
    const newline = body.indexOf(10, start);
    const end = newline < 0 ? body.length : newline;
    found.push(body.subarray(start, end));
    start = end + 1;
  }
  return found;
}

const server = http.createServer((request, response) => {
  if (request.method !== 'POST') return response.writeHead(405).end();
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = parts.length === 1 ? parts[0] : Buffer.concat(parts);
    const messages = request.url.endsWith('?split=lines') ? lines(body) : [body];
    publish(topicOf(request), messages);
    const answer = JSON.stringify({ messages: messages.length });
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': answer.length }).end(answer);
  });
});
server.on('upgrade', (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (webSocket) => subscribe(topicOf(request), { webSocket, socket }));
});
server.listen({ host: '127.0.0.1', port: Number(process.env.PORT ?? 0), backlog: 4096 }, () => {
  console.log(`listening on 127.0.0.1:${server.address().port} pids=${process.pid} version=${version}`);
});
