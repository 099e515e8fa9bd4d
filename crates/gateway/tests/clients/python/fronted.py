"""Gateways that are told of their clients by the PROXY protocol, and that speak TLS, behind the balancers of deploy/."""

import contextlib
import os

import balancers
import carried
from processes import free_address, running
from story import expect, status, tell, until


@contextlib.asynccontextmanager
async def gateway(*flags):
    """Where another gateway listens, with these flags."""
    address, admin = free_address(), free_address()
    listen = ["serve", "--listen", address, "--admin", admin, "--drain-grace", "10ms", "--drain-window", "10ms"]
    with running([os.environ["FANFARE_PROGRAM"], *listen, *flags]) as process:

        async def is_ready():
            expect("its end", process.poll(), None)
            return status(f"http://{admin}/readyz") == 200

        await until("the gateway is ready", is_ready)
        yield address


async def tls():
    """HAProxy asks a gateway for its certificate, and trusts no other."""
    with balancers.certificate() as own, balancers.certificate() as other:
        flags = ["--tls-certificate", str(own / "fullchain.pem"), "--tls-key", str(own / "privkey.pem")]
        async with gateway(*flags) as node:
            trusted = {"FANFARE_NODE_CA": str(own / "fullchain.pem"), "FANFARE_NODE_NAME": "localhost"}
            async with balancers.haproxy(node, **trusted) as front:
                await carried.websockets(front)
                await carried.streams(front)
            # Whoever is not who HAProxy looks for is down from its first check on, and soon: to the balancer alone.
            front = free_address()
            untrusted = {"FANFARE_NODE_CA": str(other / "fullchain.pem"), "FANFARE_NODE_NAME": "localhost"}
            addresses = {"FANFARE_FRONT": front, "FANFARE_NODE_1": node}
            with running(balancers.haproxy_command(), **addresses, **untrusted):

                async def answers():
                    return status(f"http://{front}/readyz") is not None

                await until("HAProxy answers", answers)
                expect("the status", status(f"http://{front}/readyz"), 503)


async def proxied():
    """HAProxy and Envoy say who is calling in front of each connection, their checks among them."""
    proxies = ["--proxy-protocol", "--trusted-proxies", "127.0.0.1/32"]
    async with gateway(*proxies) as node:
        async with balancers.haproxy(node, FANFARE_NODE_PROXY_PROTOCOL="1") as front:
            await carried.websockets(front)
            await carried.streams(front)
        async with balancers.envoy(node, ["proxy"]) as front:
            await carried.requests(front)
        # Without it nobody is answered.
        expect("the status", status(f"http://{node}/readyz"), None)
    with balancers.certificate() as own:
        certificate = ["--tls-certificate", str(own / "fullchain.pem"), "--tls-key", str(own / "privkey.pem")]
        async with gateway(*proxies, *certificate) as node:
            async with balancers.haproxy(node, "passthrough.cfg", scheme="https"):
                pass  # It was ready: the check, and a request through it, came by PROXY and TLS.


tell({"tls": tls, "proxied": proxied}[os.environ["FANFARE_STORY"]])
