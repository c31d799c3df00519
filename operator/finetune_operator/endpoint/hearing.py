"""From when on the operator could hear trainers. A gang that is silent hangs; what silences all of them does not.

A certificate that nobody trusts, a NetworkPolicy, a version that does not fit: they keep Reports away while training
goes on, and to start every gang again would be the only harm done. As the node controller of Kubernetes stops evictions
where no node is heard any more, none is taken for hung while none of its namespace is heard, or none of the cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from finetune_operator.kinds import Key
from finetune_operator.observation.observed import MAX_REPORT_INTERVAL_SECONDS

# Every trainer reports at least so often: a silence of all of them that lasts for longer is not chance.
LONGEST_SILENCE = timedelta(seconds=MAX_REPORT_INTERVAL_SECONDS)
# Of one or two gangs each may hang by itself.
WITNESSES = 3


@dataclass
class _Ear:
    """What is heard of some gangs."""

    running: dict[Key, datetime] = field(default_factory=dict)
    """Since when each of them runs, the first one first."""
    last: datetime | None = None
    """When one of them was last heard."""
    since: datetime | None = None
    """Until when none was heard that should have been; None: that never was so."""

    def is_deaf(self, now: datetime) -> bool:
        """Whether none is heard, though there are enough that should be."""
        enough = next(islice(self.running.values(), WITNESSES - 1, None), None)
        return enough is not None and now - max(enough, self.last or enough) > LONGEST_SILENCE

    def note(self, now: datetime) -> None:
        """Have the silence last until now, if there is one."""
        if self.is_deaf(now):
            self.since = now


class Hearing:
    """What is heard of all gangs of the cluster, and of those of each namespace."""

    def __init__(self, since: datetime | None = None) -> None:
        """`since` is when this operator began to listen; None if that was before any job began."""
        self._begun = since
        self._everywhere = _Ear()
        self._namespaces: dict[str, _Ear] = {}

    def begin_anew(self, now: datetime) -> None:
        """Nobody could be heard until now: this machine slept, or what was heard has times that mean nothing."""
        self._begun = now

    def runs(self, key: Key, now: datetime) -> None:
        """The pods of a job run: it should be heard."""
        for ear in self._ears(key, make=True):
            ear.note(now)
            ear.running.setdefault(key, now)

    def rests(self, key: Key) -> None:
        """Nothing need be heard of a job."""
        for ear in self._ears(key):
            ear.running.pop(key, None)
        if key.namespace in self._namespaces and not self._namespaces[key.namespace].running:
            del self._namespaces[key.namespace]

    def heard(self, key: Key, now: datetime) -> None:
        """A job was heard: the way is open, at least from its namespace."""
        for ear in self._ears(key):
            ear.note(now)
            ear.last = now

    def since(self, key: Key, now: datetime) -> datetime | None:
        """From when on what the trainers of a job said could be heard; None if it always could."""
        times = [self._begun]
        for ear in self._ears(key):
            ear.note(now)
            times.append(ear.since)
        return max((time for time in times if time is not None), default=None)

    def unheard(self, now: datetime) -> int:
        """Number of gangs of which none is taken for hung, for none is heard."""
        if self._everywhere.is_deaf(now):
            return len(self._everywhere.running)
        return sum(len(ear.running) for ear in self._namespaces.values() if ear.is_deaf(now))

    def _ears(self, key: Key, *, make: bool = False) -> Iterator[_Ear]:
        yield self._everywhere
        if make:
            self._namespaces.setdefault(key.namespace, _Ear())
        if key.namespace in self._namespaces:
            yield self._namespaces[key.namespace]
