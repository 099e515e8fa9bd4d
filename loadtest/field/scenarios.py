"""What every server of the field is asked to do: the files of loadtest/scenarios/field, as far as the tables need them."""

import dataclasses
import pathlib
import tomllib

from field.servers import ROOT

FOLDER = ROOT / "loadtest/scenarios/field"
# As the tables have them.
ORDER = ["fan-out", "storm", "topics", "single", "idle", "hot-1", "hot-50"]

# The slowest server that is still waited for takes so many connections in a second.
CONNECTIONS_PER_SECOND_MIN = 500
SPARE_SECONDS = 12


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    path: pathlib.Path
    title: str
    # Of the warm-up, the window and the drain.
    seconds: tuple
    subscribers: int
    topics: int
    # Messages per second over all topics; 0 only holds the connections.
    rate: int
    # Messages of a POST.
    batch: int

    def deliveries_per_second(self):
        return self.rate * self.subscribers / self.topics

    def is_big(self):
        """It takes long to connect, so it has rounds of its own."""
        return self.subscribers >= 10_000

    def seconds_max(self):
        """Past this the generator is ended, and the server given up."""
        return self.subscribers / CONNECTIONS_PER_SECOND_MIN + sum(self.seconds) + SPARE_SECONDS


def load(name):
    path = FOLDER / f"{name}.toml"
    data = tomllib.loads(path.read_text())
    stages, [subscribers] = data["stages"], data["subscribers"]
    publisher = data.get("publishers", [{}])[0]
    return Scenario(
        name, path, data["title"],
        seconds=tuple(int(stages[stage].removesuffix("s")) for stage in ("warmup", "window", "drain")),
        subscribers=subscribers["count"],
        topics=data.get("topics", {}).get("count", 1),
        rate=publisher.get("rate", 0),
        batch=publisher.get("batch", 1),
    )


SCENARIOS = [load(name) for name in ORDER]
