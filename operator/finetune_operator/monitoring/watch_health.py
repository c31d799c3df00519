"""Whether the watches still bring events. A watch that died says nothing, and so does a quiet cluster.

So, from time to time, the operator lists what it watches and compares: a version on the list that no event brings
within a minute means that this watch is dead. The list also heals what a dead watch missed, until a restart.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from finetune_api import names

# How long an event may be late.
TOLERANCE_SECONDS = 60.0

ObjectName = tuple[str, str]
"""Namespace and name."""


class Watch(Enum):
    """What is watched."""

    FINETUNEJOBS = (names.API_VERSION, names.PLURAL, "")
    JOBS = ("batch/v1", "jobs", names.LABEL_JOB)
    PODS = ("v1", "pods", names.LABEL_JOB)

    def __init__(self, group_version: str, plural: str, selector: str) -> None:
        self.group_version = group_version
        self.plural = plural
        self.selector = selector

    @property
    def kopf_selector(self) -> tuple[str, str] | tuple[str, str, str]:
        """Group, version and plural as kopf wants them: all of it, for a bare plural may be ambiguous."""
        group, _, version = self.group_version.rpartition("/")
        return (group, version, self.plural) if group else (version, self.plural)


@dataclass
class _Missing:
    """A difference between list and events."""

    since: float
    seen: str | None
    """What the events had brought when the difference was first found; None: nothing."""


@dataclass
class _State:
    last_event: float
    seen: dict[ObjectName, str] = field(default_factory=dict)
    missing: dict[ObjectName, _Missing] = field(default_factory=dict)
    """As the last list had it."""
    listed: float = 0.0
    """When that was taken in."""


class WatchHealth:
    """Compares what events brought with what lists say; `clock` is monotonic, in seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, tolerance_seconds: float = TOLERANCE_SECONDS
    ) -> None:
        self._clock = clock
        self._tolerance_seconds = tolerance_seconds
        self._states = {watch: _State(last_event=clock()) for watch in Watch}

    def seen(self, watch: Watch, namespace: str, name: str, version: str) -> None:
        """An event brought this version of an object."""
        state = self._states[watch]
        state.last_event = self._clock()
        state.seen[namespace, name] = version

    def gone(self, watch: Watch, namespace: str, name: str) -> None:
        """An event brought the end of an object."""
        state = self._states[watch]
        state.last_event = self._clock()
        state.seen.pop((namespace, name), None)

    def compare(self, watch: Watch, listed: Mapping[ObjectName, str]) -> list[ObjectName]:
        """Take in a list of all objects.

        Returns those of which it says something that no event has said since an earlier list.
        """
        state, now = self._states[watch], self._clock()
        before, state.missing, state.listed = state.missing, {}, now
        differing = [name for name, version in listed.items() if state.seen.get(name) != version]
        differing += [name for name in state.seen if name not in listed]
        for name in differing:
            seen = state.seen.get(name)
            known = before.get(name)
            # While events keep coming for an object, its watch lives: list and watch just race.
            state.missing[name] = known if known and known.seen == seen else _Missing(now, seen)
        behind = sorted(name for name, missing in state.missing.items() if missing is before.get(name))
        for name in behind:
            if name not in listed:
                # A watch that begins anew with a list, as after 410 Gone, never tells the end of what is not in it. So
                # an end convicts no watch, and is looked at once; one that died shows at whatever changes next.
                del state.missing[name], state.seen[name]
        return behind

    def dead(self) -> list[str]:
        """A sentence for every watch that has stopped."""
        sentences = []
        for watch in self._states:
            if late := self._late(watch):
                namespace, name = min(late)
                sentences.append(
                    f"the watch of {watch.plural} has stopped: no event for {len(late)} changed objects, "
                    f"such as {namespace}/{name}, in {self._tolerance_seconds:.0f} s"
                )
        return sentences

    def alive(self) -> dict[str, bool]:
        """Whether each watch brings what lists show."""
        return {watch.plural: not self._late(watch) for watch in self._states}

    def ages(self) -> dict[str, float]:
        """Seconds since the last event of each watch."""
        now = self._clock()
        return {watch.plural: now - state.last_event for watch, state in self._states.items()}

    def _late(self, watch: Watch) -> list[ObjectName]:
        """Objects whose events were overdue when the last list came.

        What has been missing only since then may have come a moment later, and lists can be minutes apart.
        """
        state = self._states[watch]
        return [
            name
            for name, missing in state.missing.items()
            if state.listed - missing.since > self._tolerance_seconds
        ]
