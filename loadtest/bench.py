"""What the load tests share: the programs, and running them."""

import json
import os
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


class Server:
    """A program that prints where it listens, ended with the `with` block."""

    def __init__(self, *command):
        self.command = [str(RELEASE / command[0]), *command[1:]]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        self.address = re.search(r"[\d.]+:\d+", line).group()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    @property
    def pid(self):
        return self.process.pid


def gateway(*flags, workers=1):
    return Server("fanfare", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                  "--workers", str(workers), *flags)


def floor(*flags):
    return Server("fanfare-load", "floor", "--listen", "127.0.0.1:0", *flags)


def load(server, *flags):
    """Runs `fanfare-load quick` against a server; returns its report."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [str(RELEASE / "fanfare-load"), "quick", "--url", f"http://{server.address}",
                   "--pid", str(server.pid), "--json", report.name, *map(str, flags)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return json.loads(pathlib.Path(report.name).read_text())
