"""Pure: creating the objects of an attempt or of another step, unless something is in the way."""

from dataclasses import replace
from datetime import timedelta

from finetune_operator import conditions, departure, steps
from finetune_operator.conditions import Standing
from finetune_operator.outcome import Outcome, Situation, write
from finetune_operator.pods import Manifest
from finetune_operator.transitions import NAME_CONFLICT, REFUSED

# How soon to look again for what no watch tells.
FIRST_RETRY = timedelta(seconds=2)
LAST_RETRY = timedelta(minutes=5)


def launch(situation: Situation, number: int, manifests: tuple[Manifest, ...]) -> Outcome:
    """Apply what the attempt, or the other step, of this number needs, once nothing is in the way."""
    observed = situation.observed
    if observed.jobs or observed.pods:
        words = "pods of an earlier run are still ending"
        return departure.wait(situation, situation.status, "WaitingForPods", words)
    if any(taken.fading for taken in observed.taken):
        outcome = _waiting(
            situation, "WaitingForCleanup", "objects of a deleted FineTuneJob of this name are still going"
        )
        return replace(outcome, requeue_after=FIRST_RETRY.total_seconds())
    if observed.taken:
        objects = ", ".join(f"{other.kind} {other.name}" for other in observed.taken)
        return _blocked(
            situation,
            NAME_CONFLICT,
            f"{objects}: exists and does not belong to this FineTuneJob, so it is left alone. "
            "Delete or rename it, or give the FineTuneJob another name.",
        )
    if observed.refusal is not None:
        return _blocked(situation, REFUSED, observed.refusal)
    return replace(_waiting(situation, *about_to_create(number)), apply=manifests)


def about_to_create(number: int) -> tuple[str, str]:
    """What comes next, as a word and a sentence."""
    if number in steps.BY_NUMBER:
        return "CreatingPods", f"{steps.BY_NUMBER[number].pod} is about to be created"
    return "CreatingPods", f"attempt {number}: its pods are about to be created"


def _waiting(situation: Situation, reason: str, message: str) -> Outcome:
    return write(situation.subject, situation.status, Standing.UNDERWAY, reason, message, situation.now)


def _blocked(situation: Situation, reason: str, message: str) -> Outcome:
    """Somebody has to do something; until then nothing is applied."""
    outcome = write(situation.subject, situation.status, Standing.BLOCKED, reason, message, situation.now)
    stalled = conditions.find((outcome.status or situation.status).conditions, conditions.STALLED)
    assert stalled is not None
    # Waiting as long again as it has lasted: a back-off that needs no memory.
    lasted = situation.now - stalled.last_transition_time
    return replace(outcome, requeue_after=min(max(lasted, FIRST_RETRY), LAST_RETRY).total_seconds())
