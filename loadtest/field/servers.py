"""The servers of the field: which there are, how each is started, and that it ends with all that it started."""

import dataclasses
import os
import pathlib
import re
import resource
import select
import signal
import subprocess
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
PEERS = ROOT / "loadtest/peers"

# One of them is compiled.
INSTALL_SECONDS_MAX = 3600
START_SECONDS_MAX = 30
END_SECONDS_MAX = 10
LINE_BYTES_MAX = 4096
NOT_TO_BE_HAD = 77


class Trouble(Exception):
    """Why a server could not be installed, started, or used."""


class Absent(Trouble):
    """Why a server cannot be had on this machine."""


@dataclasses.dataclass
class Server:
    """One row of the tables."""

    name: str
    title: str
    command: list
    # How it is spoken to; without one, as to Fanfare.
    adapter: pathlib.Path | None = None
    # Scenarios that it has no means for, with the reason.
    cannot: dict = dataclasses.field(default_factory=dict)


def peer(name):
    """The peer in the folder of that name."""
    adapter = PEERS / name / "adapter.toml"
    if not adapter.is_file():
        raise Trouble(f"there is no {adapter}")
    data = tomllib.loads(adapter.read_text())
    return Server(name, data["title"], [str(PEERS / name / "start")], adapter, data.get("cannot", {}))


def peer_names():
    return sorted(path.parent.name for path in PEERS.glob("*/adapter.toml") if (path.parent / "start").exists())


def install(name):
    """Installs a peer, which is nothing if it was done before."""
    try:
        done = subprocess.run([PEERS / name / "install"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=_environment(), timeout=INSTALL_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise Trouble(f"was not installed within {INSTALL_SECONDS_MAX} s") from None
    if done.returncode == NOT_TO_BE_HAD:
        raise Absent(f"cannot be had here: {complaint(done.stdout + done.stderr)}")
    if done.returncode:
        raise Trouble(f"install ended with {done.returncode}: {complaint(done.stdout + done.stderr)}")


class Running:
    """A server that serves, until the `with` block ends."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self.process = subprocess.Popen(self.server.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=self.log, env=_environment(), start_new_session=True)
        except OSError as error:
            raise Trouble(f"could not be started: {error}") from None
        # When each of its processes began, by its pid: a pid may be another process's later.
        self.started = {self.process.pid: _birth(self.process.pid)}
        try:
            line = self._line()
            addresses = re.findall(r"listening on (\S+)", line)
            if not addresses:
                raise Trouble(f"said {line!r} in place of where it listens")
        except Trouble:
            self.__exit__()
            raise
        said = dict(word.split("=", 1) for word in line.split() if "=" in word)
        # One that is started directly says no more than its address.
        self.pids = [int(pid) for pid in said.get("pids", str(self.process.pid)).split(",")]
        self.version = said.get("version")
        self.address = addresses[0].rstrip(",")
        self.publish_address = said.get("publish")
        self._look_for_processes()
        return self

    def __exit__(self, *_):
        left = self.end()
        for pid in left:
            _signal(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def end(self):
        """Asks it to end; those of its processes that are still there after a while."""
        if self.process.poll() is None:
            self._look_for_processes()
            self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS_MAX
        while True:
            self.process.poll()
            left = [pid for pid, birth in self.started.items() if birth and _birth(pid) == birth]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.01)

    def _look_for_processes(self):
        self.started |= {pid: _birth(pid) for pid in descendants(self.process.pid)}

    def _line(self):
        """The first line that it prints."""
        line, deadline = b"", time.monotonic() + START_SECONDS_MAX
        while not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Trouble(f"did not serve within {START_SECONDS_MAX} s")
            byte = os.read(self.process.stdout.fileno(), 1)
            if not byte:
                self.log.seek(0)
                raise Trouble(f"ended with {self.process.wait(END_SECONDS_MAX)}: {complaint(self.log.read())}")
            line += byte
        return line.decode(errors="replace").strip()


def descendants(pid):
    """The processes that `pid` started, and those that they started."""
    found = []
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            started = [int(word) for word in children.read_text().split()]
        except OSError:
            continue
        for child in started:
            found += [child, *descendants(child)]
    return found


def resident_bytes(pids):
    """Memory of those processes; what they share counts for each."""
    pages = (int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * resource.getpagesize()


def raise_file_limit():
    """As many open files as are allowed, for this process and what it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _environment():
    return os.environ | {"PEERS_DIR": os.environ.get("PEERS_DIR", str(TARGET / "peers")), "PORT": "0"}


def _birth(pid):
    """When a process began, in ticks since the machine did; `None` if it is gone or only waits to be reaped."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def complaint(text):
    """The line of what a program said that most likely tells why."""
    lines = text.strip().splitlines() or ["it said nothing"]
    return next((line.strip() for line in reversed(lines) if "rror" in line), lines[-1])
