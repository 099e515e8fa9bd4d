"""What deploy/ has, for the stories that check it without running it: its files, and the defaults that they rely on."""

import os
import pathlib
import re
import subprocess
import sys

import yaml

from story import expect

ROOT = pathlib.Path(os.environ["FANFARE_ROOT"])
DEPLOY = ROOT / "deploy"

SCALES = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def limit(name):
    """The default of a limit, in seconds, bytes or things: a test of the gateway keeps the table true."""
    rows = (ROOT / "docs/OPERATING.md").read_text().splitlines()
    [row] = [row for row in rows if row.startswith(f"| `{name}` | ")]
    return number(row.split("|")[2].strip())


def number(text):
    """Of a size or a time, as Fanfare, systemd and Compose write it: `64KiB`, `75`, `1m15s`."""
    parts = re.findall(r"(\d+)([a-zA-Z]*)", text)
    expect("the number as read", "".join(count + unit for count, unit in parts), text)
    return sum(int(count) * SCALES[unit] for count, unit in parts)


def metrics():
    """The names of docs/METRICS.md, which a test of the gateway compares with what it says."""
    return set(re.findall(r"^\| `(\w+)", (ROOT / "docs/METRICS.md").read_text(), re.MULTILINE))


def documents(path):
    return [document for document in yaml.safe_load_all((DEPLOY / path).read_text()) if document]


def package_program(name):
    """A program that came with Python's packages."""
    return str(pathlib.Path(sys.executable).with_name(name))


def run(command, **more):
    """What a command says, if it is content."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    print(f"{' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}", flush=True)
    expect(f"the end of {command[0]}", ended.returncode, 0)
    return ended.stdout


def run_silent(command):
    """Of a command that is content with everything, and calls nothing wrong what it only warns of."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    expect(f"what {command[0]} says", (ended.returncode, ended.stdout + ended.stderr), (0, ""))
