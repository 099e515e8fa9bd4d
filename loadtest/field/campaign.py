"""Every server through every scenario, in rounds in which they take turns, each run a file of its own.

A folder holds `campaign.json`, and for each run SCENARIO.ROUND.SERVER.json, the generator's report, or .failed, one line
that says why there is none. What is there already is not run again, so an interrupted campaign is resumed; to have something
measured again, remove its file."""

import json
import os
import platform
import subprocess
import tempfile
import time

from field.servers import TARGET, Running, Server, Trouble, complaint, install, peer

RELEASE = TARGET / "release"
GENERATOR = str(RELEASE / "fanfare-load")
HELP_SECONDS_MAX = 10


class Campaign:
    def __init__(self, folder, said):
        self.folder, self.said = folder, said

    @classmethod
    def new(cls, folder, names, scenarios, rounds, big_rounds):
        """Begins a folder, after all peers of it were installed."""
        absent = {}
        for name in names:
            try:
                install(name)
            except Trouble as trouble:
                absent[name] = str(trouble)
                print(f"{name}: {trouble}", flush=True)
        said = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "fanfare": words(RELEASE / "fanfare", "--version").split()[-1],
            "peers": [name for name in names if name not in absent],
            "absent": absent,
            "scenarios": [scenario.name for scenario in scenarios],
            "rounds": rounds,
            "big_rounds": big_rounds,
            # Of each server that told it, once it ran.
            "versions": {},
        }
        folder.mkdir(parents=True)
        campaign = cls(folder, said)
        campaign.save()
        return campaign

    @classmethod
    def load(cls, folder):
        return cls(folder, json.loads((folder / "campaign.json").read_text()))

    def save(self):
        (self.folder / "campaign.json").write_text(json.dumps(self.said, indent=2) + "\n")

    def run(self, scenarios):
        """Runs what was not run yet."""
        steps = [(scenario, number) for number in range(1, 1 + max(self.said["rounds"], self.said["big_rounds"]))
                 for scenario in scenarios if number <= self.rounds(scenario)]
        for scenario, number in steps:
            servers = self.servers(scenario)
            # Each round begins with another server.
            start = (number - 1) * len(servers) // max(1, self.rounds(scenario))
            for server in servers[start:] + servers[:start]:
                self.step(scenario, number, server)

    def rounds(self, scenario):
        return self.said["big_rounds" if scenario.is_big() else "rounds"]

    def servers(self, scenario):
        return [*own_servers(scenario), *map(peer, self.said["peers"])]

    def step(self, scenario, number, server):
        report, failed = self.path(scenario, number, server, "json"), self.path(scenario, number, server, "failed")
        if report.exists() or failed.exists() or scenario.name in server.cannot:
            return
        began = time.monotonic()
        # A server that was given up once is not waited for again.
        why = self.failure(scenario, server) or self.measure(scenario, server, report)
        if why:
            failed.write_text(why + "\n")
        took = time.monotonic() - began
        print(f"round {number}  {scenario.name:8} {server.name:14} {took:5.1f} s  {why or 'done'}", flush=True)

    def measure(self, scenario, server, report):
        """Runs one; why there is no report, if there is none."""
        partial = report.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        try:
            with Running(server) as running:
                if running.version and self.said["versions"].get(server.name) != running.version:
                    self.said["versions"][server.name] = running.version
                    self.save()
                generate(load_command(scenario, running, partial), scenario.seconds_max())
        except Trouble as trouble:
            return str(trouble)
        partial.rename(report)
        return None

    def failure(self, scenario, server):
        """Why the server was given up in an earlier round of the scenario, or nothing."""
        for number in range(1, 1 + self.rounds(scenario)):
            path = self.path(scenario, number, server, "failed")
            if path.exists():
                return path.read_text().strip()
        return None

    def reports(self, scenario, server):
        """The reports of the rounds; `None` for those without."""
        paths = [self.path(scenario, number, server, "json") for number in range(1, 1 + self.rounds(scenario))]
        return [json.loads(path.read_text()) if path.exists() else None for path in paths]

    def path(self, scenario, number, server, kind):
        return self.folder / f"{scenario.name}.{number}.{server.name}.{kind}"


def own_servers(scenario):
    """The floor and the gateway, by each of the ways to write that they have."""
    floor = [GENERATOR, "floor", "--listen", "127.0.0.1:0", *(["--join"] if scenario.batch > 1 else [])]
    gateway = [str(RELEASE / "fanfare"), "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1",
               # It is ended after each run, and nobody needs to be told gently.
               "--drain-grace", "1ms", "--drain-window", "1ms"]
    servers = [
        Server("floor", "floor: `send()` in a loop", [*floor, "--writer", "send"]),
        Server("floor-uring", "floor: through io_uring", [*floor, "--writer", "io-uring"]),
        Server("fanfare", "**Fanfare**", gateway),
    ]
    if "--writer" in words(gateway[0], "serve", "--help"):
        servers.append(Server("fanfare-inline", "**Fanfare**, `--writer inline`", [*gateway, "--writer", "inline"]))
    return servers


def load_command(scenario, running, report):
    """The generator's command line for one run. It shares the machine with the server, so its acknowledgements are to cost
    little."""
    adapter = ["--adapter", str(running.server.adapter)] if running.server.adapter else []
    publish = ["--publish", running.publish_address] if running.publish_address else []
    pids = (word for pid in running.pids for word in ("--pid", str(pid)))
    return [GENERATOR, "run", str(scenario.path), *adapter, *publish, "--url", f"http://{running.address}", *pids,
            "--acks", "second", "--json", str(report)]


def generate(command, seconds_max):
    """Runs the generator, which writes its report; never for much longer than `seconds_max`."""
    report = command[command.index("--json") + 1]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                                   start_new_session=True)
        try:
            process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise Trouble(f"given up after {seconds_max:.0f} s") from None
        finally:
            process.kill()
            process.wait()
        if not os.path.exists(report) or not os.path.getsize(report):
            log.seek(0)
            raise Trouble(f"the generator ended with {process.returncode}: {complaint(log.read())}")


def words(*command):
    """What a program says of itself."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=HELP_SECONDS_MAX,
                          check=True).stdout


def machine():
    with open("/proc/cpuinfo") as lines:
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(),
            "kernel": f"Linux {platform.release().split('-')[0]}"}
