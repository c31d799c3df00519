"""Pure: creating the objects of an attempt or of another step, unless something is in the way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.status import FineTuneJobStatus
from finetune_operator.lifecycle import departure, steps
from finetune_operator.lifecycle.outcome import Outcome, Situation, write
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation.observed import Observed, Taken
from finetune_operator.status import conditions
from finetune_operator.status.conditions import Standing
from finetune_operator.status.transitions import NAME_CONFLICT, REFUSED, REJECTED, STUCK

CREATING = "CreatingPods"
# What is told of an attempt as long as its Job has not been seen.
_BEFORE = (CREATING, "WaitingForPods", "WaitingForCleanup", NAME_CONFLICT, REFUSED, REJECTED, STUCK)

# How soon to look again for what no watch tells.
FIRST_RETRY = timedelta(seconds=2)
LAST_RETRY = timedelta(minutes=5)


def launch(situation: Situation, number: int, manifests: tuple[Manifest, ...]) -> Outcome:
    """Apply what the attempt, or the other step, of this number needs, once nothing is in the way."""
    observed = situation.observed
    # Without their Job they are those of one that was orphaned: once they have ended, nobody removes them.
    if observed.jobs or any(pod.end is None and pod.finished is None for pod in observed.pods):
        words = "pods of an earlier run are still ending"
        return departure.wait(situation, situation.status, "WaitingForPods", words)
    if (hindrance := in_the_way(observed)) is None:
        return replace(_waiting(situation, *about_to_create(number)), apply=manifests)
    if hindrance.passes:
        outcome = _waiting(situation, hindrance.reason, hindrance.message)
        return replace(outcome, requeue_after=FIRST_RETRY.total_seconds())
    return _blocked(situation, hindrance.reason, hindrance.message)


@dataclass(frozen=True)
class Hindrance:
    """Why objects cannot be made."""

    reason: str
    message: str
    passes: bool = False
    """By itself; else somebody has to do something."""


def in_the_way(observed: Observed) -> Hindrance | None:
    """What keeps the objects of a step from being made, besides pods that have yet to end."""
    if fading := [taken for taken in observed.taken if taken.fading]:
        words = f"objects of a deleted FineTuneJob of this name are still going: {_listed(fading)}"
        return Hindrance("WaitingForCleanup", words, passes=True)
    if observed.taken:
        return Hindrance(
            NAME_CONFLICT,
            f"{_listed(observed.taken)}: exists and does not belong to this FineTuneJob, so it is left alone. "
            "Delete or rename it, or give the FineTuneJob another name.",
        )
    return Hindrance(REFUSED, observed.refusal) if observed.refusal is not None else None


def look_again(since: datetime, now: datetime) -> float:
    """Seconds until another look at what no watch tells: as long again as it has lasted, a back-off without memory."""
    return min(max(now - since, FIRST_RETRY), LAST_RETRY).total_seconds()


def about_to_create(number: int) -> tuple[str, str]:
    """What comes next, as a word and a sentence."""
    if number in steps.BY_NUMBER:
        return CREATING, f"{steps.BY_NUMBER[number].pod} is about to be created"
    # It stands there for the first seconds of a start, too: see gang.py.
    return CREATING, f"attempt {number}: its pods are being created"


def is_to_come(status: FineTuneJobStatus) -> bool:
    """Whether nothing says yet that the Job of the open attempt was seen: if it is missing, it may never have been."""
    told = conditions.find(status.conditions, conditions.PROGRESSING)
    return told is None or told.reason in _BEFORE


def _listed(taken: Sequence[Taken]) -> str:
    return ", ".join(f"{other.kind} {other.name}" for other in taken)


def _waiting(situation: Situation, reason: str, message: str) -> Outcome:
    return write(situation.subject, situation.status, Standing.UNDERWAY, reason, message, situation.now)


def _blocked(situation: Situation, reason: str, message: str) -> Outcome:
    """Somebody has to do something; until then nothing is applied."""
    outcome = write(situation.subject, situation.status, Standing.BLOCKED, reason, message, situation.now)
    stalled = conditions.find((outcome.status or situation.status).conditions, conditions.STALLED)
    assert stalled is not None
    return replace(outcome, requeue_after=look_again(stalled.last_transition_time, situation.now))
