"""Pure: whether an event of a pod brings anything that a look at its job would see.

Others write annotations to pods, such as those of networks and schedulers, and a list that is made anew brings every
pod once more. A look reads a job with all its Jobs and pods: none is made for what it would not read (reading.pod).
"""

from collections.abc import Hashable, Mapping
from typing import Any

_METADATA = (
    "uid",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def digest(pod: Mapping[str, Any]) -> int:
    """Of all that a look might read of a pod: the same for as long as a look would see the same."""
    metadata, spec = pod["metadata"], pod.get("spec", {})
    told = [metadata.get(name) for name in _METADATA]
    # The words of a whole status are many; ten thousand pods lie there with theirs.
    return hash(repr((told, spec.get("nodeName"), pod.get("status"))))


class PodChanges:
    """What the events have brought of each pod so far."""

    def __init__(self) -> None:
        self._digests: dict[Hashable, int] = {}

    def matter(self, pod: Mapping[str, Any]) -> bool:
        """Whether an event brings anything new; from now on it is known."""
        metadata = pod["metadata"]
        name, new = (metadata["namespace"], metadata["name"]), digest(pod)
        old, self._digests[name] = self._digests.get(name), new
        return old != new

    def forget(self, namespace: str, name: str) -> None:
        """The pod is gone."""
        self._digests.pop((namespace, name), None)
