"""What a host and its services get from deploy/, each checked by the program that reads it."""

import configparser
import itertools
import os
import pathlib
import re
import tempfile

import balancers
from deployed import DEPLOY, limit, number, run, run_silent
from story import expect, tell

# The exposure that `systemd-analyze security` may find, in tenths; 100 is a service without any of its options.
EXPOSURE_MAX = 15

IO_URING = ["io_uring_setup", "io_uring_enter", "io_uring_register"]


async def systemd():
    analyze = os.environ["FANFARE_SYSTEMD_ANALYZE"]
    text = (DEPLOY / "systemd/fanfare.service").read_text()
    secrets = (DEPLOY / "systemd/fanfare.service.d/secrets.conf").read_text()
    with tempfile.TemporaryDirectory() as folder:
        unit = pathlib.Path(folder, "fanfare.service")
        # A program that is not installed would be an error.
        unit.write_text(text.replace("/usr/local/bin/fanfare", os.environ["FANFARE_PROGRAM"]))
        for with_secrets in [False, True]:
            if with_secrets:
                unit.with_suffix(".service.d").mkdir()
                (unit.with_suffix(".service.d") / "secrets.conf").write_text(secrets)
            run_silent([analyze, "verify", "--man=no", str(unit)])
            run([analyze, "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", str(unit)])
    settings = configparser.RawConfigParser(strict=False, interpolation=None, allow_no_value=True)
    settings.optionxform = str
    settings.read_string(text)
    service = settings["Service"]
    assert number(service["TimeoutStopSec"]) > limit("drain_timeout"), "a drain would be cut off"
    assert int(service["LimitNOFILE"]) >= limit("connections") + 256, "too few files"
    # Whoever reads only the last of several lines would miss the first filter.
    allowed, denied = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
    expect("the filters", (allowed, denied), ("@system-service", "~@privileged"))
    calls = expanded(analyze, "@system-service") - expanded(analyze, "@privileged")
    expect("io_uring is allowed", [call for call in IO_URING if call not in calls], [])


def expanded(analyze, group):
    """The system calls of a group of systemd's, and of the groups in it."""
    calls = set()
    for line in run([analyze, "syscall-filter", group]).splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            calls |= expanded(analyze, name)
        elif name and not name.startswith("#"):
            calls.add(name)
    return calls


async def sysctl():
    """Each setting exists where its part of the kernel is loaded, and has a reason."""
    reason = False
    count = 0
    for line in (DEPLOY / "sysctl/60-fanfare.conf").read_text().splitlines():
        if not line or line.startswith("#"):
            reason = bool(line)
            continue
        assert reason, f"nobody says why: {line}"
        name, value = line.split(" = ")
        assert re.fullmatch(r"[\d ]+", value), line
        file = pathlib.Path("/proc/sys", name.removeprefix("-").replace(".", "/"))
        expect(f"{file} is there", file.exists() or name.startswith("-"), True)
        count += 1
    assert count > 3, "the settings are not where they were"


async def haproxy():
    """Every choice by itself, and all together."""
    with balancers.certificate() as certificate:
        choices = [
            {"FANFARE_NODE_2": "127.0.0.1:8081"},
            {"FANFARE_STANDBY": "127.0.0.1:8082"},
            {"FANFARE_FRONT_CERTIFICATE": str(certificate / "both.pem")},
            {"FANFARE_FRONT_USER": "daemon"},
            {"FANFARE_NODE_PROXY_PROTOCOL": "1"},
            {"FANFARE_NODE_CA": str(certificate / "fullchain.pem"), "FANFARE_NODE_NAME": "localhost"},
        ]
        together = dict(itertools.chain.from_iterable(choice.items() for choice in choices))
        for name in ["haproxy.cfg", "passthrough.cfg"]:
            for choice in [{}, *choices, together]:
                run([*balancers.haproxy_command(name), "-c"], env=os.environ | choice)
    configuration = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    named = set(re.findall(r"FANFARE_\w+", configuration))
    told = set(re.findall(r"FANFARE_\w+", (DEPLOY / "README.md").read_text()))
    expect("variables that deploy/README.md does not have", named - told, set())


async def nginx():
    site = (DEPLOY / "nginx/fanfare.conf").read_text()
    with balancers.certificate() as certificate:
        for text in [site, balancers.chosen(site, "tls")]:
            text = text.replace("/etc/nginx/fanfare", str(certificate)).replace("/var/log/nginx/", "")
            with tempfile.TemporaryDirectory() as folder:
                run([*balancers.nginx_command(folder, text), "-t"])


async def envoy():
    text = (DEPLOY / "envoy/envoy.yaml").read_text()
    with balancers.certificate() as certificate, tempfile.TemporaryDirectory() as folder:
        for choices in [[], ["tls"], ["proxy"], ["tls", "proxy"]]:
            chosen = text
            for choice in choices:
                chosen = balancers.chosen(chosen, choice)
            file = pathlib.Path(folder, "envoy.yaml")
            file.write_text(chosen.replace("/etc/envoy", str(certificate)))
            run(balancers.envoy_command(file, "--mode", "validate"))
    # Nothing is sent twice.
    settings = [line for line in text.splitlines() if not line.strip().startswith("#")]
    expect("retries", [line for line in settings if "retry_policy" in line or "retry_on" in line], [])


async def prometheus():
    text = (DEPLOY / "prometheus/prometheus.yml").read_text()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "prometheus.yml")
        assert "/etc/prometheus/" in text, "the rules are not where they were"
        file.write_text(text.replace("/etc/prometheus/", f"{DEPLOY}/prometheus/"))
        run([os.environ["FANFARE_PROMTOOL"], "check", "config", str(file)])


STORIES = {
    "systemd": systemd,
    "sysctl": sysctl,
    "haproxy": haproxy,
    "nginx": nginx,
    "envoy": envoy,
    "prometheus": prometheus,
}

tell(STORIES[os.environ["FANFARE_STORY"]])
