"""The life of one server of the comparison: started in the foreground, said in one line, ended with all that it started.

    with Peer("nchan") as peer:
        [control] = peer.free_ports(1)
        server = peer.run([peer.installed / "sbin/nchan", "-p", peer.port])
        peer.wait_for(peer.port)
        peer.serves([server.pid], "1.3.6")

SIGTERM and SIGINT are blocked from the first line on and taken where this waits, so that no moment exists at which a child
or the temporary folder is forgotten. Should this process be killed, the kernel ends its children.
"""

import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES_MAX = 65_536
STARTS_WITHIN_SECONDS = 20
ENDS_WITHIN_SECONDS = 5

_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_TAKEN = _ENDING | {signal.SIGCHLD}
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Peer:
    """`installed` is where `install` put the peer, `state` a folder of this run, `port` where subscribers come."""

    def __init__(self, name):
        signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
        self.name = name
        self.here = Path(__file__).resolve().parent / name
        target = os.environ.get("CARGO_TARGET_DIR") or self.here.parents[2] / "target"
        self.installed = Path(os.environ.get("PEERS_DIR") or Path(target) / "peers").resolve() / name
        self.port = int(os.environ.get("PORT") or 0) or self.free_ports(1)[0]
        self.children = []

    def __enter__(self):
        if not self.installed.is_dir():
            sys.exit(f"{self.name}: not in {self.installed}; run {self.here / 'install'} first")
        # What a child leaves behind when it ends comes to us, and is ended too.
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _raise_files_max()
        self.state = Path(tempfile.mkdtemp(prefix=f"peer-{self.name}-"))
        return self

    def __exit__(self, *_):
        for child in self.children:
            _signal(os.killpg, child.pid, signal.SIGTERM)
        deadline = time.monotonic() + ENDS_WITHIN_SECONDS
        for child in self.children:
            try:
                child.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            _signal(os.killpg, child.pid, signal.SIGKILL)
            child.wait()
        for pid in descendants(os.getpid()):
            _signal(os.kill, pid, signal.SIGKILL)
        shutil.rmtree(self.state, ignore_errors=True)

    def version(self, package):
        """The upstream version of a Debian package, as `install` wrote it down."""
        versions = dict(line.split() for line in (self.installed / "versions").read_text().splitlines())
        return re.sub(r"^\d+:|[+-].*$", "", versions[package])

    def libraries(self):
        """Where the libraries are that `install` unpacked: first those, then the system's."""
        return ":".join(map(str, (self.installed / "system/usr/lib").glob("*-linux-gnu")))

    def free_ports(self, count):
        """Ports of the loopback that nobody listens on now."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        return ports

    def write(self, name, text):
        """A file of this run's folder."""
        path = self.state / name
        path.write_text(text)
        return path

    def run(self, command, **environment):
        """Starts a child. What it says is kept, and told when it ends by itself.

        Of our environment it gets little: some servers take PORT, HOST or DEBUG for their configuration.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        said = (self.state / f"said-{len(self.children)}").open("wb")
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=self.state,
            env=kept | {name: str(value) for name, value in environment.items()},
            start_new_session=True,
            preexec_fn=_in_child,
        )
        said.close()
        self.children.append(child)
        return child

    def wait_for(self, *ports):
        """Until all of them are listened on."""
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        for port in ports:
            while not _answers(port):
                if time.monotonic() > deadline:
                    sys.exit(f"{self.name}: nobody listens on port {port} after {STARTS_WITHIN_SECONDS} s")
                self._pause(0.05)

    def serves(self, pids, version, publish=None):
        """Says so, and stays until this process or the server is to end."""
        line = f"listening on 127.0.0.1:{self.port} pids={','.join(map(str, pids))} version={version}"
        print(line + (f" publish=127.0.0.1:{publish}" if publish else ""), flush=True)
        while True:
            self._pause(3600)

    def _pause(self, seconds):
        taken = signal.sigtimedwait(_TAKEN, seconds)
        if taken and taken.si_signo in _ENDING:
            sys.exit(0)
        for number, child in enumerate(self.children):
            if child.poll() is not None:
                said = (self.state / f"said-{number}").read_text(errors="replace")[-2000:]
                sys.exit(f"{self.name}: {child.args[0]} ended with {child.returncode}\n{said}")


def descendants(pid):
    """The processes that `pid` started, and those that they started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            started = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in started:
            found += [child, *descendants(child)]
    return found


def _answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def _in_child():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN)


def _raise_files_max():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, max(most, FILES_MAX)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _signal(kill, pid, number):
    try:
        kill(pid, number)
    except ProcessLookupError:
        pass
