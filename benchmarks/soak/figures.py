"""What came of a run, as figures."""

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.soak.leaks import Trend, trend
from benchmarks.soak.measures import ALLOWANCES, GONE_AT_REST
from benchmarks.soak.plan import Fault, JobPlan


@dataclass(frozen=True)
class Ended:
    """A job that is over."""

    plan: JobPlan
    attempts: int
    problems: list[str]


@dataclass
class Course:
    """All that has happened so far."""

    seed: int
    ends: list[Ended] = field(default_factory=list)
    faults: list[tuple[float, Fault, str]] = field(default_factory=list)
    """When, what, and what was hit."""
    measured: list[dict[str, float]] = field(default_factory=list)
    """Minute by minute, while jobs are started."""
    before: dict[str, float] = field(default_factory=dict)
    """What there was before the first job."""
    after: dict[str, float] = field(default_factory=dict)
    """What there is after the last one; empty where the run was interrupted."""
    under_way: list[str] = field(default_factory=list)

    def ended(self, plan: JobPlan, attempts: int, problems: list[str]) -> None:
        """A job is over."""
        self.ends.append(Ended(plan, attempts, problems))

    @property
    def lost(self) -> list[Ended]:
        """Jobs that did not end as they were meant to."""
        return [ended for ended in self.ends if ended.problems]

    @property
    def restarts(self) -> int:
        """Attempts after the first, of all jobs that are over."""
        return sum(max(ended.attempts - 1, 0) for ended in self.ends)

    def trends(self) -> dict[str, Trend]:
        """What can be said of each quantity; of the operator's, over the life of the process that is measured last."""
        pids = [each["operator_pid"] for each in self.measured if "operator_pid" in each]
        found = {}
        for quantity, allowance in ALLOWANCES.items():
            of_operator = quantity.startswith("operator_")
            points = [
                (each["second"], each[quantity])
                for each in self.measured
                if quantity in each and (not of_operator or each["operator_pid"] == pids[-1])
            ]
            known = trend([second for second, _ in points], [value for _, value in points], allowance)
            if known:
                found[quantity] = known
        return found

    def left(self) -> list[str]:
        """What there is more of after the last job than before the first."""
        return [
            quantity
            for quantity in GONE_AT_REST
            if self.after.get(quantity, 0) > self.before.get(quantity, 0)
        ]

    def leaks(self) -> list[str]:
        """The quantities that grow without end."""
        return [quantity for quantity, found in self.trends().items() if found.leaks]


def figures(course: Course) -> dict[str, float]:
    """The flat figures of a run."""
    found: dict[str, float] = {
        "seed": course.seed,
        "minutes": round(course.measured[-1]["second"] / 60, 1) if course.measured else 0,
        "jobs": len(course.ends),
        "jobs_lost": len(course.lost),
        "jobs_under_way_at_the_end": len(course.under_way),
        "restarts": course.restarts,
        "faults": len(course.faults),
        "quantities_judged": len(course.trends()),
        "leaks": len(course.leaks()),
        "left_at_rest": len(course.left()),
    }
    struck = Counter(fault for _, fault, _ in course.faults)
    found |= {f"faults_{fault.name.lower()}": struck[fault] for fault in Fault}
    for quantity in [*ALLOWANCES, "events"]:
        values = [each[quantity] for each in course.measured if quantity in each]
        if values:
            found[f"{quantity}_highest"] = round(max(values), 1)
            found[f"{quantity}_last"] = round(values[-1], 1)
        if quantity in course.after:
            found[f"{quantity}_at_rest"] = round(course.after[quantity], 1)
    found |= {f"{name}_growth": round(known.growth, 2) for name, known in course.trends().items()}
    return found
