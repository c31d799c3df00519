"""How many jobs there are at each point, and how long is looked at what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """So many jobs are there at once."""

    running: int
    finished: int

    @property
    def jobs(self) -> int:
        """All of them."""
        return self.running + self.finished


@dataclass(frozen=True)
class Course:
    """One run of the benchmark."""

    sizes: tuple[Size, ...]
    """Rising; the last one is where the targets are."""
    settle_seconds: float
    """From the first look at every job until what is steady is measured."""
    steady_seconds: float
    """At the last size, or longer until a periodic list was among it; at the others a third of it."""
    reporting_seconds: float
    storms: tuple[int, ...]
    """Rising: how many changes of pods are asked for per second, storm by storm,"""
    storm_seconds: float
    """and for how long each time."""


FULL = Course(
    sizes=(Size(250, 2_500), Size(1_000, 10_000)),
    settle_seconds=15,
    steady_seconds=180,
    reporting_seconds=240,
    storms=(10, 20, 40, 80, 160),
    storm_seconds=30,
)
QUICK = Course(
    sizes=(Size(10, 100), Size(20, 200)),
    settle_seconds=3,
    steady_seconds=6,
    reporting_seconds=12,
    storms=(20, 50),
    storm_seconds=4,
)
