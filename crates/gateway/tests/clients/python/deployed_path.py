"""docs/OPERATING.md, "From the README to a deployment", typed into a shell as it stands there: but for the first step, which
builds, and for addresses and a folder of the story's own."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from deployed import DEPLOY, ROOT
from processes import free_address
from story import PATIENCE, expect, tell

MARK = "-- step --"


def steps():
    """The lines of each block for a shell."""
    text = (ROOT / "docs/OPERATING.md").read_text()
    section = text.split("## From the README to a deployment\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


async def story():
    build, *rest = steps()
    assert "cargo build" in build, f"the first step is\n{build}"
    script = f"\necho '{MARK}'\n".join(rest)
    for port in ["8080", "9090", "8443"]:
        assert f":{port}" in script, f"nothing is on {port}"
        script = script.replace(f":{port}", f":{free_address().partition(':')[2]}")
    programs = [sys.executable, os.environ["FANFARE_PROGRAM"], os.environ["FANFARE_HAPROXY"]]
    path = os.pathsep.join([*(str(pathlib.Path(program).parent) for program in programs), os.environ["PATH"]])
    here = {"PATH": path, "DEPLOY": str(DEPLOY), "no_proxy": "localhost,127.0.0.1", "NO_PROXY": "localhost,127.0.0.1"}
    # The script's own variables are a shell's; this one's would configure the gateway that it starts.
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("FANFARE_")}
    with tempfile.TemporaryDirectory() as folder:
        begin = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\numask 077\n"
        command = ["bash", "-c", begin + script]
        try:
            ended = subprocess.run(command, cwd=folder, env=elsewhere | here, capture_output=True, text=True, timeout=PATIENCE - 5)
        finally:
            for name in ["gateway.log", "balancer.log"]:
                log = pathlib.Path(folder, name)
                print(f"{name}:\n{log.read_text() if log.exists() else ''}", flush=True)
    print(ended.stdout, ended.stderr, flush=True)
    expect("its end", ended.returncode, 0)
    said = [[line for line in part.splitlines() if line] for part in ended.stdout.split(MARK)]
    _, _, checked, served, balanced, published, subscribed, refused, end = said
    expect("what is said of the configuration", len(checked), 1)
    expect("the gateway", served[-1], "ready")
    expect("the gateway, through the balancer", balanced, ["ready"])
    expect("the place", json.loads(published[0])["offset"], 1)
    expect("the value", published[1], '{"bid":"64000.10"}')
    welcome, acknowledgement, message = [json.loads(frame) for frame in subscribed]
    expect("the frames", (welcome["type"], acknowledgement["type"]), ("welcome", "subscribed"))
    expect("the last value, over wss", message["data"], {"bid": "64000.10"})
    expect("what is refused", refused, ["401", "403", "403", "403"])
    expect("the end", end, [])


tell(story)
