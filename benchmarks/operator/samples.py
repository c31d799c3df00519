"""What one turn measured."""

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.operator.work import Work


@dataclass
class Turn:
    """One system's turn at one work."""

    limits: str
    work: Work
    system: str
    repetition: int
    first_pod: list[float] = field(default_factory=list)
    """Seconds from asking for each job to the arrival of its first pod at a watch, in the order of the jobs."""
    last_pod: list[float] = field(default_factory=list)
    """The same to its last one."""
    complete_at: list[float] = field(default_factory=list)
    """Seconds from the beginning until each job had all pods, rising."""
    ended: list[float] = field(default_factory=list)
    """Seconds from a job's last pod's end to its terminal status."""
    suspended: list[float] = field(default_factory=list)
    """Seconds from asking to suspend each job until its last pod was gone."""
    writes: Counter[str] = field(default_factory=Counter)
    """By the system's own controllers, from the jobs' beginning to their end."""
    launch_writes: Counter[str] = field(default_factory=Counter)
    """The same until all pods were there and everything was quiet."""
    manager_writes: Counter[str] = field(default_factory=Counter)
    """By the controller manager, from beginning to end."""
    reads: int = 0
    """GETs and LISTs at the API server by everybody until all pods were there."""
    cpu_seconds: float = 0.0
    """Of the system's own controllers, until all pods were there and everything was quiet."""
    peak_bytes: int = 0
    """The most that they held, added up."""
    growth_bytes: int = 0
    """What they held more when all pods were there than before."""

    @property
    def seconds(self) -> float:
        """From the first request until all pods of all jobs were there."""
        return max(self.complete_at)

    @property
    def jobs_per_second(self) -> float:
        """How fast jobs got all their pods."""
        if self.work.pace == "one by one":
            return len(self.last_pod) / sum(self.last_pod)
        return self.work.jobs / self.seconds
