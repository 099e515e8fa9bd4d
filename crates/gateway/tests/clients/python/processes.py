"""Programs that a story starts for itself, on addresses of their own."""

import contextlib
import os
import socket
import subprocess

PATIENCE = 10

_places = []


def free_address():
    """An address that nobody else on this machine gets as long as the story lasts: bound, but not listened on."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    _places.append(place)
    return "127.0.0.1:%d" % place.getsockname()[1]


@contextlib.contextmanager
def running(command, log=None, **environment):
    """A process as long as the block; what it started itself ends with it, if it is a good parent. Its output goes to
    the file `log`, if there is one."""
    with contextlib.ExitStack() as files:
        output = log and files.enter_context(open(log, "w"))
        process = subprocess.Popen(command, stdout=output, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
