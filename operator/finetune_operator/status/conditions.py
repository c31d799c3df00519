"""Pure: where a job stands, as conditions that people, kubectl wait, Flux and Argo CD read.

kstatus takes the first of Reconciling and Stalled that is True, so never are both, and calls a job failed only when
Stalled is True: Ready=False alone means "in progress" for ever.

A suspended job is "in progress", too, though nothing is done about it. It is not failed, for it is as its owner wants
it; and not current, or Flux would go on to what depends on it: a model that does not exist yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal

from finetune_api.status import Condition, DatasetStatus

Truth = Literal["True", "False", "Unknown"]

ACCEPTED = "Accepted"
PREPARED = "Prepared"
PROGRESSING = "Progressing"
SUCCEEDED = "Succeeded"
SUSPENDED = "Suspended"
# Only there with spec.publish, once the job has succeeded: where the upload stands changes none of the others.
PUBLISHED = "Published"
READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
TYPES = (ACCEPTED, PREPARED, PROGRESSING, SUCCEEDED, SUSPENDED, READY, RECONCILING, STALLED)

# Reasons of Accepted and Prepared when they are True, and of Suspended when it is False; else all conditions carry that
# of where the job stands.
VALID = "Valid"
VALID_MESSAGE = "the spec is valid"
DATA_KNOWN = "DataPrepared"
NOT_SUSPENDED = "NotSuspended"
# The status is another version's, or was written by hand.
UNREADABLE = "StatusUnreadable"


class Standing(Enum):
    """Where a job stands, as the truth of its conditions in the order of TYPES.

    That of Prepared holds as long as the data are not known: once they are, it is True whatever becomes of the job.
    """

    UNDERWAY = ("True", "Unknown", "True", "Unknown", "False", "Unknown", "True", "False")
    BLOCKED = ("True", "Unknown", "False", "Unknown", "False", "False", "False", "True")
    SUSPENDED = ("True", "Unknown", "False", "Unknown", "True", "Unknown", "False", "False")
    SUCCEEDED = ("True", "Unknown", "False", "True", "False", "True", "False", "False")
    FAILED = ("True", "False", "False", "False", "False", "False", "False", "True")
    REJECTED = ("False", "False", "False", "False", "False", "False", "False", "True")
    # Suspended, and not to go on as it is.
    HELD_BACK = ("False", "Unknown", "False", "Unknown", "True", "False", "False", "True")

    @property
    def truths(self) -> dict[str, Truth]:
        """The status of every condition, by type."""
        return dict(zip(TYPES, self.value, strict=True))


def conditions(
    standing: Standing,
    reason: str,
    message: str,
    *,
    dataset: DatasetStatus | None,
    faults: Sequence[str] = (),
    generation: int,
    now: datetime,
    previous: Sequence[Condition],
) -> list[Condition]:
    """All conditions of a job that stands so, for this reason (one word) and with this message (a sentence).

    `dataset` is what is known of its data, and `faults` is what is wrong with every single row of them: Prepared tells
    both. A condition whose status is what it was in `previous` keeps the time of its last transition.
    """
    since = {(condition.type, condition.status): condition.last_transition_time for condition in previous}
    told = {type_: (status, reason, message) for type_, status in standing.truths.items()}
    if standing.truths[ACCEPTED] == "True":
        told[ACCEPTED] = ("True", VALID, VALID_MESSAGE)
    if standing.truths[SUSPENDED] == "False":
        told[SUSPENDED] = ("False", NOT_SUSPENDED, "")
    if dataset is not None:
        told[PREPARED] = ("True", DATA_KNOWN, found(dataset))
    elif faults:
        # A single fault is in the message already.
        more = [fault for fault in faults if fault not in message]
        told[PREPARED] = (standing.truths[PREPARED], reason, "\n".join([message, *more]))
    return [
        Condition(
            type=type_,
            status=status,
            reason=why,
            message=words,
            observed_generation=generation,
            last_transition_time=since.get((type_, status), now),
        )
        for type_, (status, why, words) in told.items()
    ]


def found(dataset: DatasetStatus) -> str:
    """What was found in the data, in a sentence: '590 samples of 48,211 tokens; left out: 3 too long'."""
    sentence = (
        f"{dataset.samples:,} samples of {dataset.tokens:,} tokens, {dataset.loss_tokens:,} of them with loss"
    )
    return f"{sentence}; left out: {dataset.left_out}" if dataset.left_out else sentence


def unreadable(message: str, *, generation: int, now: datetime) -> list[Condition]:
    """What kstatus reads, of a job whose status cannot be read; others stay, for what they say may hold."""
    found = conditions(
        Standing.BLOCKED, UNREADABLE, message, dataset=None, generation=generation, now=now, previous=()
    )
    return [condition for condition in found if condition.type in (READY, RECONCILING, STALLED)]


def readable_again(known: Sequence[Condition], *, succeeded: bool, now: datetime) -> list[Condition]:
    """The conditions of a job that is over, whose status could not be read meanwhile: as the others have it."""
    ended = find(known, SUCCEEDED)
    if ended is None or not any(condition.reason == UNREADABLE for condition in known):
        return list(known)
    truths = (Standing.SUCCEEDED if succeeded else Standing.FAILED).truths
    why = {"reason": ended.reason, "message": ended.message, "last_transition_time": now}
    return [
        condition.model_copy(update={**why, "status": truths[condition.type]})
        if condition.reason == UNREADABLE
        else condition
        for condition in known
    ]


@dataclass(frozen=True)
class Told:
    """What a condition says."""

    status: Truth
    reason: str
    message: str


def with_published(
    known: Sequence[Condition], told: Told | None, *, generation: int, now: datetime
) -> list[Condition]:
    """The conditions of a job with this one of its upload; without any, where there is none."""
    others = [condition for condition in known if condition.type != PUBLISHED]
    if told is None:
        return others
    before = find(known, PUBLISHED)
    since = before.last_transition_time if before is not None and before.status == told.status else now
    published = Condition(
        type=PUBLISHED,
        status=told.status,
        reason=told.reason,
        message=told.message,
        observed_generation=generation,
        last_transition_time=since,
    )
    return [*others, published]


def at_generation(known: Sequence[Condition], generation: int) -> list[Condition]:
    """Conditions that hold of a newer generation, too."""
    return [condition.model_copy(update={"observed_generation": generation}) for condition in known]


def find(known: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in known if condition.type == type_), None)


def is_true(known: Sequence[Condition], type_: str) -> bool:
    """Whether there is a condition of this type, and it is True."""
    condition = find(known, type_)
    return condition is not None and condition.status == "True"
