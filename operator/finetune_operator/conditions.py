"""Pure: where a job stands, as conditions that people, kubectl wait, Flux and Argo CD read.

kstatus takes the first of Reconciling and Stalled that is True, so never are both, and calls a job failed only when
Stalled is True: Ready=False alone means "in progress" for ever.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Literal

from finetune_api.status import Condition

Truth = Literal["True", "False", "Unknown"]

ACCEPTED = "Accepted"
PROGRESSING = "Progressing"
SUCCEEDED = "Succeeded"
READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
TYPES = (ACCEPTED, PROGRESSING, SUCCEEDED, READY, RECONCILING, STALLED)

# The reason of Accepted; all other conditions carry the reason of where the job stands.
VALID = "Valid"
VALID_MESSAGE = "the spec is valid"


class Standing(Enum):
    """Where a job stands, as the truth of its conditions in the order of TYPES."""

    UNDERWAY = ("True", "True", "Unknown", "Unknown", "True", "False")
    BLOCKED = ("True", "False", "Unknown", "False", "False", "True")
    SUCCEEDED = ("True", "False", "True", "True", "False", "False")
    FAILED = ("True", "False", "False", "False", "False", "True")
    REJECTED = ("False", "False", "False", "False", "False", "True")

    @property
    def truths(self) -> dict[str, Truth]:
        """The status of every condition, by type."""
        return dict(zip(TYPES, self.value, strict=True))


def conditions(
    standing: Standing,
    reason: str,
    message: str,
    *,
    generation: int,
    now: datetime,
    previous: Sequence[Condition],
) -> list[Condition]:
    """All conditions of a job that stands so, for this reason (one word) and with this message (a sentence).

    A condition whose status is what it was in `previous` keeps the time of its last transition.
    """
    since = {(condition.type, condition.status): condition.last_transition_time for condition in previous}
    accepted = standing is not Standing.REJECTED
    return [
        Condition(
            type=type_,
            status=status,
            reason=VALID if type_ == ACCEPTED and accepted else reason,
            message=VALID_MESSAGE if type_ == ACCEPTED and accepted else message,
            observed_generation=generation,
            last_transition_time=since.get((type_, status), now),
        )
        for type_, status in standing.truths.items()
    ]


def find(found: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in found if condition.type == type_), None)


def is_true(found: Sequence[Condition], type_: str) -> bool:
    """Whether there is a condition of this type, and it is True."""
    condition = find(found, type_)
    return condition is not None and condition.status == "True"
