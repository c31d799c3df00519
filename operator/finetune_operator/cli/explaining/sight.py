"""What is seen of a job and of what is around it, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.observation.observed import GangJob, Pod, Subject, newest

Wire = Mapping[str, Any]


@dataclass(frozen=True)
class Quota:
    """How much of a resource a queue may use, and how much of that is used."""

    resource: str
    used: str
    nominal: str | None = None
    """None where the ClusterQueue cannot be seen."""


@dataclass(frozen=True)
class Queue:
    """The queue that a gang waits in."""

    name: str
    exists: bool = True
    pending: int = 0
    """Jobs that wait in it."""
    admitted: int = 0
    """Jobs that it has let go on."""
    words: str | None = None
    """Why it is not active, if it is not."""
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True)
class Sight:
    """All of it. What may not be seen is missing."""

    subject: Subject
    jobs: tuple[GangJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Those of the newest Job, or all that are left."""
    warnings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The newest warning about a pod or a Job, by the object's name, as a word and a sentence."""
    workload: Wire | None = None
    """What Kueue has made of the newest Job."""
    queue: Queue | None = None
    hidden: tuple[str, ...] = ()
    """What may not be seen, as sentences."""

    @property
    def newest(self) -> GangJob | None:
        """The Job that comes last in the life of a FineTuneJob."""
        return newest(self.jobs)
