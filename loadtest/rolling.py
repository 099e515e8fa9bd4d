#!/usr/bin/env python3
"""A rolling restart behind HAProxy with a larger crowd than CI's: rolling.py [SUBSCRIBERS OF EACH KIND]

Tells the story of crates/gateway/tests/clients/python/rolling.py. Wants HAProxy and aiohttp; the environment that the tests
install under `target/clients` has the latter.
"""

import os
import shutil
import subprocess
import sys

from bench import RELEASE, ROOT

STORIES = ROOT / "crates/gateway/tests/clients/python"


def main():
    haproxy = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if haproxy is None:
        sys.exit("haproxy is missing")
    installed = RELEASE.parent / "clients/python/venv/bin/python"
    python = str(installed) if installed.exists() else sys.executable
    environment = {
        **os.environ,
        "FANFARE_ROLLING": sys.argv[1] if len(sys.argv) > 1 else "300",
        "FANFARE_PROGRAM": str(RELEASE / "fanfare"),
        "FANFARE_ROOT": str(ROOT),
        "FANFARE_HAPROXY": haproxy,
        # The story starts gateways of its own.
        "FANFARE_URL": "http://127.0.0.1:0",
        "FANFARE_ADMIN": "http://127.0.0.1:0",
    }
    sys.exit(subprocess.run([python, "-B", str(STORIES / "rolling.py")], env=environment).returncode)


main()
