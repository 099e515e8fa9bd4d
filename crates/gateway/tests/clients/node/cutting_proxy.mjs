// A proxy between a client and the gateway that a story can cut, and that can refuse WebSockets as some networks do.

import { createServer, request } from "node:http";
import { connect } from "node:net";

import { url } from "./client.mjs";

const gateway = new URL(url);

export class CuttingProxy {
  /** Neither connections nor requests get through. */
  isCut = false;
  refusesWebSockets = false;
  /** Answers a request in the gateway's place, and says whether it did. */
  standIn = () => false;
  /** Paths, of upgrades too, in the order they were asked for. */
  asked = [];
  #sockets = new Set();

  static async start() {
    const proxy = new CuttingProxy();
    const server = createServer((incoming, answer) => proxy.#forward(incoming, answer));
    server.on("connection", (socket) => {
      if (proxy.isCut) socket.resetAndDestroy();
      else proxy.#keep(socket);
    });
    server.on("upgrade", (incoming, socket, head) => proxy.#upgrade(incoming, socket, head));
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    server.unref();
    proxy.url = `http://127.0.0.1:${server.address().port}`;
    return proxy;
  }

  /** Everything that is open breaks, and nothing new opens. */
  cut() {
    this.isCut = true;
    this.drop();
  }

  mend() {
    this.isCut = false;
  }

  /** Everything that is open breaks. */
  drop() {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  #keep(socket) {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => {});
  }

  #forward(incoming, answer) {
    this.asked.push(incoming.url);
    if (this.standIn(incoming, answer)) return;
    const { method, url: path, headers } = incoming;
    const outgoing = request({ host: gateway.hostname, port: gateway.port, method, path, headers }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      response.on("error", () => answer.destroy());
      response.pipe(answer);
    });
    outgoing.on("error", () => answer.destroy());
    answer.on("close", () => outgoing.destroy());
    incoming.pipe(outgoing);
  }

  #upgrade(incoming, socket, head) {
    this.asked.push(incoming.url);
    if (this.refusesWebSockets) {
      socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
      return;
    }
    const outgoing = connect(Number(gateway.port), gateway.hostname, () => {
      const { rawHeaders } = incoming;
      const lines = rawHeaders.filter((_, index) => index % 2 === 0).map((name, index) => `${name}: ${rawHeaders[2 * index + 1]}`);
      outgoing.write(`GET ${incoming.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
      outgoing.write(head);
      socket.pipe(outgoing).pipe(socket);
    });
    outgoing.on("error", () => socket.destroy());
    outgoing.on("close", () => socket.destroy());
    socket.on("close", () => outgoing.destroy());
  }
}
