"""What the load balancers of deploy/ tell a gateway of a client, and what they do not let through to it.

In the gateway's place is a witness that answers each request with what it was told: the head as it came, and the address in
front of it.
"""

import contextlib
import http.client
import json
import os
import socket
import ssl
import struct
import tempfile
import threading

import balancers
from balancers import UNCHECKED
from story import expect, tell

# Whom the client claims to be, and who it is.
CLAIMED = "203.0.113.7"
CLIENT = "127.0.0.5"

FORGED = {
    "X-Forwarded-For": CLAIMED,
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Host": "elsewhere.example",
    "X-Forwarded-Port": "70",
    "X-Real-IP": CLAIMED,
    "X-Client-IP": CLAIMED,
    "Forwarded": f"for={CLAIMED}",
}

NOT_PUBLIC = [
    "/metrics",
    "/METRICS",
    "/metrics/",
    "//metrics",
    "/%6detrics",
    "/topics/../metrics",
    "/topics/%2e%2e/metrics",
    "/connections",
    "/connections/close?share=1",
    "/drain",
    "/revocations",
    "/admin",
    "/debug/pprof/",
    "/",
    "/wsx",
    "/topicsx",
]

# What the witness reads, and then goes.
CUT = "/topics/cut"

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class Witness:
    """A gateway of one's own: with `proxied`, it wants a PROXY header first; with a certificate, then TLS."""

    def __init__(self, proxied=False, certificate=None):
        self.proxied = proxied
        self.paths = []
        self.callers = []
        self.tls = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate / "fullchain.pem", certificate / "privkey.pem")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        # A peer that is not as it should be is a request that is not answered: the story says which.
        with connection, contextlib.suppress(OSError, EOFError):
            proxy = proxy_header(connection) if self.proxied else None
            self.callers.append(proxy)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as lines:
                while line := lines.readline():
                    request = line.decode().split()
                    headers = http.client.parse_headers(lines)
                    path = request[1]
                    if path != "/readyz":
                        self.paths.append(path)
                    if path == CUT:
                        return
                    names = [(name.lower(), value) for name, value in headers.items()]
                    told = json.dumps({"request": request, "headers": names, "proxy": proxy}).encode()
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(told)}\r\n\r\n"
                    connection.sendall(head.encode() + told)

    def close(self):
        self.listener.close()


def proxy_header(connection):
    """Who is calling, by version 2 of the PROXY protocol; None stands for the balancer itself."""
    head = exactly(connection, 16)
    signature, command, family, length = struct.unpack("!12sBBH", head)
    if signature != SIGNATURE:
        raise EOFError("no PROXY header")
    rest = exactly(connection, length)
    if command == 0x20:
        return None
    assert (command, family) == (0x21, 0x11), (command, family)
    source, _, port, _ = struct.unpack("!4s4sHH", rest[:12])
    return [socket.inet_ntoa(source), port]


def exactly(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError("cut off")
        data += more
    return data


@contextlib.contextmanager
def client(front):
    """A connection through the front, from an address of its own."""
    scheme, _, address = front.partition("://")
    host, port = address.split(":")
    more = {"source_address": (CLIENT, 0), "timeout": 10}
    if scheme == "https":
        connection = http.client.HTTPSConnection(host, int(port), context=UNCHECKED, **more)
    else:
        connection = http.client.HTTPConnection(host, int(port), **more)
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


def ask(connection, path, method="GET", headers=FORGED):
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def checked(front, proxied=False):
    """One word about the client's address, and it is the front's."""
    with client(front) as connection:
        me = list(connection.sock.getsockname()[:2])
        for method, path in [("GET", "/topics/a.b"), ("GET", "/ws"), ("POST", "/topics/a.b?x=1"), ("POST", "/publish")]:
            status, answer = ask(connection, path, method)
            expect(f"the status of {method} {path}", status, 200)
            told = json.loads(answer)
            expect(f"what was asked for with {method} {path}", told["request"][:2], [method, path])
            expect("who is calling, by PROXY protocol", told["proxy"], me if proxied else None)
            assert CLAIMED not in answer.decode(), f"a claim got through: {told}"
            headers = [(name, value) for name, value in told["headers"] if name.startswith("x-f") or name == "forwarded"]
            # The IPv6 form of an IPv4 address and a port are as good.
            scheme = front.partition("://")[0]
            expect("who is calling", sorted(headers), [("x-forwarded-for", CLIENT), ("x-forwarded-proto", scheme)])


def refused(front, witness):
    """What is not public is refused, and does not reach the gateway."""
    before = len(witness.paths)
    with client(front) as connection:
        for path in NOT_PUBLIC:
            for method in ["GET", "POST"]:
                status, answer = ask(connection, path, method, {})
                assert status in (400, 403), f"{method} {path}: {status} {answer}"
        for path in ["/topics", "/topics/a", "/events?topic=a", "/poll", "/fanfare.js", "/healthz"]:
            expect(f"the status of {path}", ask(connection, path, headers={})[0], 200)
    through = witness.paths[before:]
    assert not any(path.startswith(("/m", "/c", "/d", "/admin")) for path in through), through
    expect("what got through", len(through), 6)


async def sent_once(front):
    """Of a POST that was sent nobody knows whether it was published, so it is not sent to anybody else."""
    witnesses = [Witness(), Witness()]
    one, other = [witness.address for witness in witnesses]
    async with front(one, second=other) as url:
        with client(url) as connection:
            status, answer = ask(connection, CUT, "POST", {"Content-Length": "0"})
        assert status in (502, 503, 504), (status, answer)
    expect("how often it was sent", [path for witness in witnesses for path in witness.paths], [CUT])
    for witness in witnesses:
        witness.close()


async def story_of(front):
    """Plain, with TLS, and with the PROXY protocol where it has it; then its log."""
    witness = Witness()
    with tempfile.NamedTemporaryFile("r") as log, balancers.certificate() as certificate:
        async with front(witness.address, log=log.name) as url:
            checked(url)
            refused(url, witness)
            with client(url) as connection:
                expect("a refusal", ask(connection, "/metrics?access_token=secret", headers={})[0], 403)
        log.seek(0)
        lines = log.read()
        assert "/metrics" in lines and "secret" not in lines, f"the log: {lines}"
        async with front(witness.address, certificate=certificate) as url:
            checked(url)
            expect("what is offered", alpn(url), "h2")
    witness.close()
    await sent_once(front)


def alpn(url):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, port = url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as tls:
        return tls.selected_alpn_protocol()


async def haproxy():
    await story_of(balancers.haproxy)
    proxied = Witness(proxied=True)
    async with balancers.haproxy(proxied.address, FANFARE_NODE_PROXY_PROTOCOL="1") as url:
        checked(url, proxied=True)
    proxied.close()
    with balancers.certificate() as certificate:
        # TLS to the gateway, which has to be who it says.
        node = Witness(certificate=certificate)
        to_node = {"FANFARE_NODE_CA": str(certificate / "fullchain.pem"), "FANFARE_NODE_NAME": "localhost"}
        async with balancers.haproxy(node.address, **to_node) as url:
            checked(url)
        node.close()


async def haproxy_passes_tls_through():
    with balancers.certificate() as certificate:
        node = Witness(proxied=True, certificate=certificate)
        async with balancers.haproxy(node.address, "passthrough.cfg", scheme="https") as url:
            with client(url) as connection:
                me = list(connection.sock.getsockname()[:2])
                answer = json.loads(ask(connection, "/ws", headers={})[1])
                expect("who is calling", answer["proxy"], me)
            # Plain HTTP does not reach it.
            with client(url.replace("https", "http")) as connection:
                me = list(connection.sock.getsockname()[:2])
                try:
                    ask(connection, "/ws")
                    raise AssertionError("plain HTTP was answered")
                except (http.client.RemoteDisconnected, ConnectionResetError):
                    pass
            assert me not in node.callers, "plain HTTP reached the gateway"
        node.close()


async def nginx():
    await story_of(balancers.nginx)


async def envoy():
    await story_of(balancers.envoy)
    proxied = Witness(proxied=True)
    async with balancers.envoy(proxied.address, ["proxy"]) as url:
        checked(url, proxied=True)
    proxied.close()


STORIES = {
    "haproxy": haproxy,
    "haproxy_passes_tls_through": haproxy_passes_tls_through,
    "nginx": nginx,
    "envoy": envoy,
}

tell(STORIES[os.environ["FANFARE_STORY"]])
