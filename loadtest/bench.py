"""What the load tests share: the programs, running them, and looking at a gateway while it runs."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"

# The allocator gives freed memory back within ten seconds.
SETTLE = 12


class Server:
    """A program that prints where it listens, ended with the `with` block."""

    def __init__(self, *command):
        self.command = [str(RELEASE / command[0]), *command[1:]]

    def __enter__(self):
        with tempfile.TemporaryFile("w+") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True)
            # The public address first, then that of the operators, if there is one.
            self.addresses = re.findall(r"[\d.]+:\d+", self.process.stdout.readline())
            if not self.addresses:
                code = self.process.wait(10)
                log.seek(0)
                sys.exit(f"{self.command[0]} ended with {code}: {log.read().strip()}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    @property
    def address(self):
        return self.addresses[0]

    @property
    def pid(self):
        return self.process.pid

    def metrics(self):
        """What /metrics says: a value for each name, the sum over its labels, and one for each name with labels."""
        with urllib.request.urlopen(f"http://{self.addresses[1]}/metrics", timeout=5) as page:
            lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
        values = {}
        for name, value in (line.rsplit(" ", 1) for line in lines):
            for key in {name, name.split("{")[0]}:
                values[key] = values.get(key, 0.0) + float(value)
        return values


def gateway(*flags, workers=1):
    return Server("fanfare", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                  "--workers", str(workers), *map(str, flags))


def floor(*flags):
    return Server("fanfare-load", "floor", "--listen", "127.0.0.1:0", *flags)


@contextlib.contextmanager
def configuration(slow):
    """The path of a configuration whose topics have the policy `slow` for slow readers."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "fanfare.toml"
        path.write_text(f'[[topics]]\nmatch = "load.>"\nslow = "{slow}"\n')
        yield path


class Load:
    """A run of `fanfare-load quick` against a server, that goes on while the `with` block looks at it."""

    def __init__(self, server, *flags):
        self.report_path = tempfile.NamedTemporaryFile(suffix=".json")
        self.command = [str(RELEASE / "fanfare-load"), "quick", "--url", f"http://{server.address}",
                        "--pid", str(server.pid), "--json", self.report_path.name, *map(str, flags)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, error, *_):
        if error:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def is_running(self):
        return self.process.poll() is None

    def report(self):
        """The report's only run, once it is over; ends this program where there is none."""
        _, log = self.process.communicate()
        text = pathlib.Path(self.report_path.name).read_text()
        return json.loads(text)["runs"][0] if text else sys.exit(log.strip().splitlines()[-1])


def group(report, name):
    """What is said of a group of subscribers, or nothing where the run has none of that name."""
    return next((group for group in report["groups"] if group["name"] == name), None)


def busy(report):
    """What to print behind a run's figures if the machine had too little time for it, or nothing."""
    reasons = report["generator"]["bottleneck"]
    return f"   busy: {'; '.join(reasons)}" if reasons else ""


def load(server, *flags):
    """Runs `fanfare-load quick` against a server; returns its report."""
    with Load(server, *flags) as run:
        return run.report()


def idle(server, subscribers, *flags):
    """Connects subscribers who get nothing; returns the run's report, and the server's memory when it has settled."""
    with Load(server, "--subscribers", subscribers, "--rate", 0, "--warmup", "2s", "--duration", f"{SETTLE}s",
              *flags) as run:
        while run.is_running() and server.metrics()["fanfare_connections"] < subscribers:
            time.sleep(0.1)
        time.sleep(SETTLE)
        settled = resident_bytes(server.pid)
        return run.report(), settled


def memory_each(report, settled, subscribers):
    """What to print of an idle run: how many are connected, and what one costs at once and later."""
    memory = report["server"]
    return (f"{report['connections']['connected']} connected   "
            f"{memory['resident_bytes_per_connection']:.0f} bytes each at once, "
            f"{(settled - memory['resident_bytes_before']) / subscribers:.0f} after {SETTLE} s")


def resident_bytes(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024
