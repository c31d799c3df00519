"""Pure: what a story is told in. A step travels as JSON, so that a story that went wrong can be told again."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Apply:
    """A user makes a FineTuneJob, unless it is there."""

    job: str
    inline: bool = True
    suspend: bool = False


@dataclass(frozen=True)
class Edit:
    """A user changes a field of the spec that may be changed."""

    job: str
    field: str
    value: Any


@dataclass(frozen=True)
class Label:
    """A user gives it a label: nothing is to come of it."""

    job: str
    value: str


@dataclass(frozen=True)
class Remove:
    """A user deletes it; whoever applies it again has another one."""

    job: str


@dataclass(frozen=True)
class RemoveChild:
    """Somebody deletes an object of this kind that belongs to it."""

    job: str
    kind: str


@dataclass(frozen=True)
class Run:
    """The kubelet starts the containers of its pods."""

    job: str


@dataclass(frozen=True)
class Tell:
    """Its first pod POSTs that it has done so many steps, with a token of its own."""

    job: str
    step: int


@dataclass(frozen=True)
class End:
    """A container of its last pod ends; with 0, those of all pods, and the first leaves its last words."""

    job: str
    code: int
    reason: str = ""


@dataclass(frozen=True)
class Disrupt:
    """The cluster takes a pod away, and says so."""

    job: str


@dataclass(frozen=True)
class Vanish:
    """Somebody deletes its first pod by force: it is gone at once, and nobody knows how it ended."""

    job: str


@dataclass(frozen=True)
class Evict:
    """Somebody drains the node of its first pod, which has its grace period."""

    job: str


@dataclass(frozen=True)
class Crash:
    """The operator is killed at this write from now on, before or after it has taken effect, and started again."""

    write: int
    after: bool


@dataclass(frozen=True)
class Refuse:
    """So many of the operator's writes are answered with this error."""

    status: int
    times: int


@dataclass(frozen=True)
class CutWatches:
    """The operator's watches end, with 410 Gone or without a word."""

    gone: bool


@dataclass(frozen=True)
class Second:
    """Another operator is there from now on, or goes if it is there."""


@dataclass(frozen=True)
class Settle:
    """Nothing is done until nothing happens."""


Step = (
    Apply
    | Edit
    | Label
    | Remove
    | RemoveChild
    | Run
    | Tell
    | End
    | Disrupt
    | Vanish
    | Evict
    | Crash
    | Refuse
    | CutWatches
    | Second
    | Settle
)
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Step.__args__}


def to_json(steps: Sequence[Step], violated: Sequence[str] = ()) -> str:
    """A story for a file, with what it violated when it was found."""
    told = [{"do": type(step).__name__, **dataclasses.asdict(step)} for step in steps]
    return json.dumps({"violated": list(violated), "steps": told}, indent=1) + "\n"


def from_json(text: str) -> list[Step]:
    """The steps of a story."""
    return [KINDS[step.pop("do")](**step) for step in json.loads(text)["steps"]]
