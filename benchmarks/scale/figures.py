"""Pure: numbers and targets from what was measured, and how they grow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.operator.figures import percentile
from benchmarks.scale.course import Point, Result

_MIB = 2**20


@dataclass(frozen=True)
class Figure:
    """One number of the result, flat."""

    key: str
    value: float
    about: str
    at_most: float | None = None
    """The target."""

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        return None if self.at_most is None else self.value <= self.at_most


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """k of value ~ size^k by least squares over the logarithms: 1 is in proportion, 0 not at all.

    Raises:
        ValueError: there are not two different sizes, or something is not above 0.
    """
    if len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        raise ValueError(f"no exponent can be fitted to {list(values)} at {list(sizes)}")
    xs, ys = ([math.log(number) for number in numbers] for numbers in (sizes, values))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)


def figures(result: Result) -> list[Figure]:
    """All numbers; of what was not measured there are none."""
    return [*_at_rest(result.points), *_growth(result.points), *_reporting(result), *_storm(result)]


def _at_rest(points: Sequence[Point]) -> list[Figure]:
    if not points:
        return []
    last = points[-1]
    return [
        Figure("peak_mib", last.peak_bytes / _MIB, "memory at its peak, restart included, MiB", 400),
        Figure("steady_mib", last.steady_bytes / _MIB, "memory at rest, MiB", 400),
        Figure("steady_cpu_percent", 100 * last.steady_share, "CPU at rest, nobody reports, % of one", 5),
        Figure("restart_seconds", last.restart_seconds, "from start until every job is known, s", 60),
        Figure("restart_cpu_seconds", last.restart_cpu_seconds, "CPU of that, s"),
    ]


def _growth(points: Sequence[Point]) -> list[Figure]:
    sizes = [float(point.size.jobs) for point in points]
    found = []
    for key, about, values in (
        ("peak_exponent", "memory at its peak", [float(point.peak_bytes) for point in points]),
        ("steady_exponent", "memory at rest", [float(point.steady_bytes) for point in points]),
        ("restart_exponent", "time of a restart", [point.restart_seconds for point in points]),
        ("restart_cpu_exponent", "CPU of a restart", [point.restart_cpu_seconds for point in points]),
        ("steady_cpu_exponent", "CPU at rest", [point.steady_share for point in points]),
    ):
        # A short look at few jobs may find no CPU time at all.
        if len(points) > 1 and min(values) > 0:
            found.append(Figure(key, exponent(sizes, values), f"{about} ~ jobs^k: k"))
    return found


def _reporting(result: Result) -> list[Figure]:
    reporting = result.reporting
    if reporting is None or not (reporting.first.seconds and reporting.told.seconds):
        return []
    told, seconds = reporting.told, reporting.seconds
    return [
        Figure("report_p99_ms", 1000 * percentile(told.seconds, 0.99), "p99 of a report, ms", 100),
        Figure(
            "report_first_p99_ms",
            1000 * percentile(reporting.first.seconds, 0.99),
            "p99 of a report while all tokens are new, ms",
        ),
        Figure(
            "report_late_client_p99_ms",
            1000 * percentile(told.late, 0.99),
            "by how much the trainers' own process was late during a report, p99, ms",
        ),
        Figure(
            "loop_lag_p99_ms",
            1000 * reporting.lag_seconds,
            "by how much the operator's event loop was late meanwhile, p99 at most, ms",
        ),
        Figure("report_p50_ms", 1000 * percentile(told.seconds, 0.5), "p50 of a report, ms"),
        Figure("report_p90_ms", 1000 * percentile(told.seconds, 0.9), "p90 of a report, ms"),
        Figure("reports_per_second", len(told.seconds) / seconds, "reports of all jobs, per second", 25),
        Figure("report_interval_seconds", percentile(told.intervals, 0.5), "asked for the next one after, s"),
        Figure(
            "status_writes_per_second", reporting.status_writes / seconds, "status writes, per second", 25
        ),
        Figure(
            "reporting_cpu_percent", 100 * reporting.cpu_seconds / seconds, "CPU while all report, % of one"
        ),
        Figure(
            "reporting_peak_mib", reporting.peak_bytes / _MIB, "memory at its peak while all report, MiB", 400
        ),
    ]


def _storm(result: Result) -> list[Figure]:
    """Of the largest storm that the API server bore: of larger ones, nobody can know what came first."""
    borne = [storm for storm in result.storms if storm.was_borne and not storm.annotations]
    if not borne:
        return []
    storm = borne[-1]
    about = f"in a storm of {storm.asked_per_second} pod events per second"
    handled = percentile(storm.handled_seconds, 0.99)
    return [
        Figure("storm_p99_seconds", handled, f"p99 from asking to handled, {about}, s", 2),
        Figure("storm_events_per_second", storm.events_per_second, "changes of pods in it, per second"),
        Figure("storm_reconciles_per_event", storm.reconciles / storm.events, "looks at a job for each"),
        Figure("storm_cpu_percent", 100 * storm.cpu_seconds / storm.seconds, "CPU meanwhile, % of one"),
    ]
