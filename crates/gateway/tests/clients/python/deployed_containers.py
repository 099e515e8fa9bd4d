"""The Dockerfile, the image's files, and compose.yaml.

No container is run here: the Dockerfile and compose.yaml are checked by their own linters and by what they say, and the
image's root file system is made as the Dockerfile makes it and run in by the kernel's own means.
"""

import asyncio
import json
import os
import pathlib
import re
import signal
import tempfile

import yaml

from balancers import chosen
from deployed import DEPLOY, ROOT, documents, limit, number, package_program, run
from processes import PATIENCE, free_address, running
from story import expect, publish, status, tell, until

# Tags that say which version, such as `3.0.5-alpine` and `v2.54.1`.
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")


async def dockerfile():
    path = DEPLOY / "Dockerfile"
    run([package_program("hadolint"), str(path)])
    lines = [line.split() for line in path.read_text().splitlines() if line and not line.startswith(("#", " "))]
    toolchain = re.search(r'channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    images = [words[1] for words in lines if words[0] == "FROM"]
    expect("the images", images, [f"rust:{toolchain}-slim-bookworm", "scratch"])
    for words in lines:
        if words[0] == "COPY" and not words[1].startswith("--from"):
            for source in words[1:-1]:
                assert (ROOT / source).exists(), f"nothing to copy: {source}"
    [user] = [words[1] for words in lines if words[0] == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"the user is {user}"
    [entry] = [json.loads(words[1]) for words in lines if words[0] == "ENTRYPOINT"]
    expect("the program", entry, ["/usr/local/bin/fanfare"])


async def image():
    """It serves from files that it cannot write to, with nothing else there, as nobody."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "root")
        run([str(DEPLOY / "rootfs.sh"), os.environ["FANFARE_PROGRAM"], str(root)])
        programs = [path for path in root.rglob("*") if path.is_file() and os.access(path, os.X_OK)]
        names = {path.name for path in programs if ".so" not in path.name}
        expect("the programs", names, {"fanfare"})
        # As a container has it; the rest of /proc is the same.
        for name in ["proc", "dev"]:
            (root / name).mkdir()
        address, admin = free_address(), free_address()
        serve = f"/usr/local/bin/fanfare serve --listen {address} --admin {admin} --drain-grace 10ms --drain-window 10ms"
        steps = [
            f"mount --bind {root} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount -o remount,bind,ro {root}",
            f"exec setpriv --no-new-privs chroot --userspec=65532:65532 {root} {serve}",
        ]
        with running([os.environ["FANFARE_UNSHARE"], "--mount", "sh", "-ec", " && ".join(steps)]) as process:

            async def is_ready():
                expect("its end", process.poll(), None)
                return status(f"http://{admin}/readyz") == 200

            await until("it is ready", is_ready)
            place = await publish("a", "1", url=f"http://{address}")
            expect("the place", place["offset"], 1)
            facts = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            expect("who it is", re.search(r"^Uid:\s+(\d+)", facts, re.MULTILINE)[1], "65532")
            expect("what it may", re.search(r"^CapEff:\s+(\w+)", facts, re.MULTILINE)[1], "0" * 16)
            process.send_signal(signal.SIGTERM)
            expect("its end", await asyncio.to_thread(process.wait, PATIENCE), 0)


async def compose():
    """By Docker's own plugin, and by what it makes of it."""
    file = DEPLOY / "compose.yaml"
    model = json.loads(run([package_program("docker-compose"), "-f", str(file), "config", "--format", "json"]))
    services = model["services"]
    expect("the services", sorted(services), ["gateway", "grafana", "haproxy", "prometheus"])
    for name, service in services.items():
        expect(f"the root file system of {name}", service["read_only"], True)
        expect(f"the capabilities of {name}", (service["cap_drop"], service.get("cap_add")), (["ALL"], None))
        expect(f"the privileges of {name}", service["security_opt"], ["no-new-privileges:true"])
        assert not service["user"].startswith(("0", "root")), f"{name} is root"
        assert int(service["mem_limit"]) > 0 and int(service["pids_limit"]) > 0, f"{name} has no bounds"
        if "build" not in service:
            assert PINNED.fullmatch(service["image"]), f"any {service['image']}"
        for volume in service["volumes"]:
            if volume["type"] == "bind":
                assert volume["read_only"], f"{name} may write to {volume['source']}"
                expect(f"{volume['source']} is there", pathlib.Path(volume["source"]).exists(), True)
    gateway, haproxy = services["gateway"], services["haproxy"]
    assert "ports" not in gateway, "the gateway is reached by way of HAProxy"
    public = [name for name, service in services.items() for port in service.get("ports", []) if "host_ip" not in port]
    expect("what is reached from elsewhere", public, ["haproxy"])
    assert number(gateway["stop_grace_period"]) > limit("drain_timeout")
    assert gateway["ulimits"]["nofile"]["hard"] >= limit("connections") + 256
    connections = int(haproxy["environment"]["FANFARE_FRONT_CONNECTIONS"])
    assert haproxy["ulimits"]["nofile"]["hard"] > 2 * connections + 500
    address = gateway["networks"]["back"]["ipv4_address"]
    expect("where HAProxy looks for it", haproxy["environment"]["FANFARE_NODE_1"], f"{address}:8080")
    expect("who leaves the network", model["networks"]["back"]["internal"], True)
    # What Prometheus asks is what is there.
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    [targets] = [job["static_configs"][0]["targets"] for job in scraped if job["job_name"] == "fanfare"]
    expect("the targets", targets, ["gateway:9090"])


# A public key, of RFC 8037.
JWKS = '{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'


async def configurations():
    """What the containers are told, with and without the choices in it."""
    [manifest] = documents("kubernetes/config.yaml")
    listening = {"FANFARE_LISTEN": "0.0.0.0:8080", "FANFARE_ADMIN": "0.0.0.0:9090"}
    with tempfile.TemporaryDirectory() as folder:
        jwks, file = pathlib.Path(folder, "jwks.json"), pathlib.Path(folder, "fanfare.toml")
        jwks.write_text(JWKS)
        for text in [(DEPLOY / "fanfare.toml").read_text(), manifest["data"]["fanfare.toml"]]:
            for text in [text, chosen(text, "tokens")]:
                text, count = re.subn(r'(?m)^jwks = ".*"$', f'jwks = "{jwks}"', text)
                expect("how often there are tokens' keys", count, int("#tokens#" not in text))
                file.write_text(text)
                ours = {name: value for name, value in os.environ.items() if not name.startswith("FANFARE_")}
                run([os.environ["FANFARE_PROGRAM"], "check-config", "--config", str(file)], env=ours | listening)


STORIES = {"dockerfile": dockerfile, "image": image, "compose": compose, "configurations": configurations}

tell(STORIES[os.environ["FANFARE_STORY"]])
