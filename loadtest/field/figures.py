"""What the tables need of the reports: a value of each round, then the median with the lowest and the highest."""

import dataclasses
import statistics

# A server that delivers less than this part of what was asked did not keep up.
KEPT_UP_MIN = 0.95


@dataclasses.dataclass
class Run:
    """One round of one server."""

    cpu_us: float | None
    cpu_share: float | None
    delivered_per_second: float
    p50_us: float | None
    p99_us: float | None
    lost: int
    out_of_order: int
    connected: int
    disconnected: int
    resident_per_connection: float | None
    kernel_per_connection: float | None
    generator_was_bottleneck: bool
    passed: bool
    problems: list


@dataclasses.dataclass
class Spread:
    """The median of the rounds, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values):
        values = [value for value in values if value is not None]
        return cls(statistics.median(values), min(values), max(values)) if values else None


class Cell:
    """A server in a scenario, over the rounds."""

    def __init__(self, scenario, runs, floor_runs):
        self.scenario = scenario
        self.rounds = [run for run in runs if run]
        pairs = [(run, floor) for run, floor in zip(runs, floor_runs) if run and floor and run.cpu_us and floor.cpu_us]
        self.ratio = Spread.of([run.cpu_us / floor.cpu_us for run, floor in pairs])

    def spread(self, name):
        return Spread.of([getattr(run, name) for run in self.rounds])

    def total(self, name):
        return sum(getattr(run, name) for run in self.rounds)

    def part_delivered(self):
        """Of what was asked; 1 where nothing was."""
        asked = self.scenario.deliveries_per_second()
        return self.spread("delivered_per_second").median / asked if asked and self.rounds else 1.0

    def kept_up(self):
        return self.part_delivered() >= KEPT_UP_MIN

    def bottlenecks(self):
        """Rounds in which the generator had too little time itself."""
        return sum(run.generator_was_bottleneck for run in self.rounds)


def run_of(report):
    """A round's figures; `None` without a report."""
    if report is None:
        return None
    [run] = report["runs"]
    server, latency = run["server"] or {}, run["latency_us"]
    return Run(
        cpu_us=server.get("cpu_us_per_delivery"),
        cpu_share=server.get("cpu_share"),
        delivered_per_second=run["delivered_per_second"],
        p50_us=latency["p50"] if latency["count"] else None,
        p99_us=latency["p99"] if latency["count"] else None,
        lost=run["delivery"]["lost"],
        out_of_order=run["delivery"]["out_of_order"],
        connected=run["connections"]["connected"],
        disconnected=run["connections"]["disconnected"],
        resident_per_connection=server.get("resident_bytes_per_connection"),
        kernel_per_connection=server.get("kernel_socket_bytes_per_connection"),
        generator_was_bottleneck=run["generator"]["was_bottleneck"],
        passed=run["passed"],
        problems=run["problems"],
    )
