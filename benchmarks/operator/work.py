"""What is measured: how many jobs of how many nodes, how fast they are made, and what becomes of them."""

from dataclasses import dataclass
from typing import Literal

Pace = Literal["one by one", "burst", "steady"]
Then = Literal["finish", "suspend", "delete"]


@dataclass(frozen=True)
class Work:
    """Jobs that one system is given in one turn."""

    jobs: int
    nodes: int
    pace: Pace = "burst"
    """One by one: each is made when all pods of the one before are there; a burst: all at once, by 8 threads."""
    then: Then = "delete"
    """Once all pods are there: they come to a good end, or the jobs are suspended, or only removed."""
    repetitions: int = 1
    per_second: float = 0.0
    """Of a steady pace: how many jobs are made in a second."""

    @property
    def size(self) -> str:
        """As it is named in results."""
        return f"{self.jobs if self.pace != 'one by one' else 1}x{self.nodes}"

    @property
    def label(self) -> str:
        """For people."""
        rate = f", {self.per_second:g} a second" if self.pace == "steady" else ""
        return f"{self.jobs}×{self.nodes} {self.pace}{rate}, then {self.then}"


@dataclass(frozen=True)
class Limits:
    """What clients may ask of the API server."""

    name: str
    requests_per_second: int | None
    """None: as each is shipped."""
    works: tuple[Work, ...]


# As shipped, the controller manager asks 20 times a second: a Job of two pods takes three requests, so some six jobs a
# second are its limit.
DEFAULT = Limits(
    "default",
    None,
    (
        Work(5, 2, "one by one", "finish"),
        Work(100, 2, "burst", "finish"),
        Work(100, 2, "burst", "suspend"),
        Work(100, 2, "steady", "delete", per_second=4),
        Work(20, 8, "burst", "finish"),
        Work(500, 2, "burst", "delete"),
    ),
)
EQUALISED = Limits(
    "equalised",
    1000,
    (
        Work(5, 2, "one by one", "finish"),
        Work(100, 2, "burst", "finish", repetitions=2),
        Work(100, 2, "burst", "suspend"),
        Work(20, 8, "burst", "finish"),
        Work(500, 2, "burst", "delete"),
    ),
)
QUICK = (
    Limits("default", None, (Work(2, 2, "one by one", "finish"), Work(20, 2, "burst", "suspend"))),
    Limits("equalised", 1000, (Work(20, 2, "burst", "finish"),)),
)
