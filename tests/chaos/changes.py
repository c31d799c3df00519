"""Pure: what became of the objects of a namespace, version by version."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import names

Wire = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A version of an object, or its end."""

    type: str
    """ADDED, MODIFIED or DELETED."""
    kind: str
    wire: Wire
    """As the API server told it; of one that was deleted, as it was last."""

    @property
    def metadata(self) -> Wire:
        """Of the object."""
        found: Wire = self.wire["metadata"]
        return found

    @property
    def name(self) -> str:
        """Of the object."""
        return str(self.metadata["name"])

    @property
    def uid(self) -> str:
        """Of the object."""
        return str(self.metadata["uid"])

    @property
    def revision(self) -> int:
        """When it happened, by the one counter that etcd has for everything."""
        return int(self.metadata["resourceVersion"])

    @property
    def status(self) -> Wire:
        """Of the object; empty where it has none yet."""
        found: Wire = self.wire.get("status") or {}
        return found

    @property
    def job(self) -> str | None:
        """The FineTuneJob that it is labelled with."""
        labels: dict[str, str] = self.metadata.get("labels", {})
        return labels.get(names.LABEL_JOB)

    @property
    def attempt(self) -> int | None:
        """The attempt, or the other step, that it is labelled with."""
        labels: dict[str, str] = self.metadata.get("labels", {})
        return names.labelled_attempt(labels.get(names.LABEL_ATTEMPT, ""))

    @property
    def controller(self) -> Wire | None:
        """The reference to its controller."""
        owners = self.metadata.get("ownerReferences", [])
        return next((owner for owner in owners if owner.get("controller")), None)


def in_order(changes: Iterable[Change]) -> list[Change]:
    """As they happened, whatever the order in which the watches told them."""
    return sorted(changes, key=lambda change: change.revision)


def table(changes: Sequence[Change]) -> str:
    """A line for each, for people: when, what, whose, and how it stands."""
    return "\n".join(
        f"{change.revision:>7} {change.type:<8} {change.kind:<13} {change.name} {change.uid[:8]}"
        f" of {str(change.controller['uid'])[:8] if change.controller else '-'} {change.status.get('phase', '')}"
        for change in changes
        if change.kind != "Event"
    )
