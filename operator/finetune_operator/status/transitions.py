"""Pure: which events a change of the status is worth."""

from dataclasses import dataclass
from typing import Literal

from finetune_api import guide
from finetune_api.failure import CAUSES, ExitCode
from finetune_api.precedents import BUDGET_FIELD, HALVED
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_api.units import size
from finetune_operator import kueue
from finetune_operator.status import conditions, evaluation, progress

ACCEPTED = "Accepted"
NAME_CONFLICT = "NameConflict"
REFUSED = "Refused"
REJECTED = "Invalid"
# While the state is saved because of spec.suspend, and once nothing is left that runs.
SUSPENDING = "Suspending"
SUSPENDED = "Suspended"
# Pods do not go although they were asked to.
STUCK = "WaitingForNode"


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, for people."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


def events(old: FineTuneJobStatus, new: FineTuneJobStatus) -> tuple[Event, ...]:
    """The events of the change from one status to the next, in the order in which they happened."""
    return (
        *_acceptance(old, new),
        *_downloads(old, new),
        *_preparation(old, new),
        *_continuation(old, new),
        *_evaluation(old, new),
        *_checkpoints(old, new),
        *_smaller_budget(old, new),
        *_advice(old, new),
        *_ends(old, new),
        *_suspension(old, new),
        *_starts(old, new),
        *_queue(old, new),
        *_obstacles(old, new),
        *_publication(old, new),
    )


def _acceptance(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    before = conditions.find(old.conditions, conditions.ACCEPTED)
    after = conditions.find(new.conditions, conditions.ACCEPTED)
    if after is None:
        return []
    if before is not None and (before.status, before.reason) == (after.status, after.reason):
        return []
    if after.status == "True":
        # One event, not two, where both happen in one write: nothing is prepared beforehand.
        begun = [_begins(attempt) for attempt in new.attempts if _is_first(attempt) and not old.attempts]
        return [Event(ACCEPTED, "; ".join([after.message, *begun]))]
    return [Event(after.reason, after.message, "Warning")]


def _downloads(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    """What was downloaded, and which version of it; told once it is on record."""
    known = {one.name for one in old.inputs}
    told = [
        f"{one.name}: {one.origin}{f', commit {one.revision}' if one.revision else ''}, {size(one.bytes)}"
        for one in new.inputs
        if one.name not in known and one.path is not None
    ]
    return [Event("Downloaded", "; ".join(told))] if told else []


def _preparation(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    after = conditions.find(new.conditions, conditions.PREPARED)
    if after is None or after.status != "True" or conditions.is_true(old.conditions, conditions.PREPARED):
        return []
    return [Event(conditions.PREPARED, after.message)]


def _continuation(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    """Where a new attempt goes on, told once it has found what it can go on from."""
    known = {attempt.number for attempt in old.attempts if attempt.resumed_from_step is not None}
    return [
        Event("Continued", f"attempt {attempt.number} goes on from step {attempt.resumed_from_step}")
        if attempt.resumed_from_step
        else Event("StartedOver", f"attempt {attempt.number} found no state to go on from", "Warning")
        for attempt in new.attempts
        if attempt.resumed_from_step is not None and attempt.number not in known
    ]


def _evaluation(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    found = [
        Event(word, sentence, "Warning" if word == evaluation.NOT_IMPROVED else "Normal")
        for word, sentence in evaluation.news(old.evaluation, new.evaluation)
    ]
    before, after = (known.evaluation.stopped_early if known.evaluation else None for known in (old, new))
    if after is not None and before is None:
        found.append(Event("StoppedEarly", after))
    return found


def _checkpoints(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    known = {(checkpoint.kind, checkpoint.name) for checkpoint in old.checkpoints}
    # An old checkpoint comes back into a full list when a newer one was pruned; that is no news.
    newest = max((checkpoint.time for checkpoint in old.checkpoints), default=None)
    return [
        Event(
            "CheckpointSaved", f"{checkpoint.kind} checkpoint of step {checkpoint.step} in {checkpoint.path}"
        )
        for checkpoint in new.checkpoints
        if (checkpoint.kind, checkpoint.name) not in known and (newest is None or checkpoint.time >= newest)
    ]


def _smaller_budget(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    before = old.plan.max_tokens_per_gpu if old.plan else None
    choice = new.plan.choice(BUDGET_FIELD) if new.plan else None
    # A budget may also fall because a suspended job was given other hardware: that is no news.
    if before is None or choice is None or choice.value >= before or not choice.reason.startswith(HALVED):
        return []
    message = f"maxTokensPerGpu is {choice.value:,.0f} in the place of {before:,}, {choice.reason}"
    return [Event(CAUSES[ExitCode.SMALLER_BUDGET].reason, f"{message}. The result stays the same", "Warning")]


def _advice(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    """What the rules say that judge how training goes, told when they begin to; what they say of the spec is older."""
    known = {advice.rule for advice in old.plan.warnings} if old.plan else set()
    new_rules = {rule.id for rule in guide.WHILE_TRAINING} - known
    warnings = new.plan.warnings if new.plan else []
    return [
        Event("Advice", f"{advice.field}: {advice.message}", "Warning")
        for advice in warnings
        if advice.rule in new_rules
    ]


def _ends(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    if old.phase == new.phase:
        return []
    message = _message(new)
    if new.phase is Phase.RESTARTING:
        return [Event("Restarting", message, "Warning")]
    if new.phase is Phase.MERGING and old.phase is not Phase.SUSPENDED:
        return [Event("Merging", new.attempts[-1].message or "")]
    if new.phase is Phase.SUCCEEDED:
        return [Event("Succeeded", message)]
    if new.phase is Phase.FAILED and new.start_time is not None:
        return [Event("Failed", message, "Warning")]
    return []


def _suspension(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    if new.phase is Phase.SUSPENDED:
        return [] if old.phase is Phase.SUSPENDED else [Event(SUSPENDED, _message(new))]
    if old.phase is Phase.SUSPENDED and new.phase is not None and not new.phase.is_terminal:
        return [Event("Resumed", _message(new))]
    return [Event(SUSPENDING, _message(new))] if _is_new(SUSPENDING, conditions.PROGRESSING, old, new) else []


def _starts(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    known = {attempt.number for attempt in old.attempts}
    told = any(event.reason == ACCEPTED for event in _acceptance(old, new))
    return [
        Event("Started", _begins(attempt))
        for attempt in new.attempts
        if attempt.number not in known and not (told and _is_first(attempt))
    ]


def _is_first(attempt: Attempt) -> bool:
    return attempt.number == 1


def _begins(attempt: Attempt) -> str:
    return f"attempt {attempt.number} begins"


def _queue(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    if new.queue is None:
        return []
    if new.phase is Phase.QUEUED and old.phase is not Phase.QUEUED:
        before = old.queue.preemptions if old.queue is not None else 0
        if new.queue.preemptions > before:
            return [Event(kueue.PREEMPTED, _message(new), "Warning")]
        return [Event(kueue.QUEUED, _message(new))]
    if old.phase is Phase.QUEUED and new.phase in kueue.ADMITTED:
        since = old.queue.waited_seconds if old.queue is not None else 0
        waited = progress.duration(new.queue.waited_seconds - since)
        return [Event("Admitted", f"queue {new.queue.name} lets the gang start, after {waited}")]
    return []


def _obstacles(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    told = (
        (NAME_CONFLICT, conditions.STALLED),
        (REFUSED, conditions.STALLED),
        (STUCK, conditions.PROGRESSING),
        (kueue.INADMISSIBLE, conditions.PROGRESSING),
    )
    return [
        Event(reason, _message(new), "Warning")
        for reason, type_ in told
        if _is_new(reason, type_, old, new, other_words=True)
    ]


def _publication(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[Event]:
    before, after = (conditions.find(status.conditions, conditions.PUBLISHED) for status in (old, new))
    if after is None or (before is not None and before.status == after.status):
        return []
    if after.status == "True":
        return [Event("Published", after.message)]
    if after.status == "Unknown":
        return []
    tries = [status.publication.tries if status.publication else 0 for status in (old, new)]
    cause = new.publication.message if new.publication and tries[1] > tries[0] else None
    return [Event("PublishFailed", cause or after.message, "Warning")]


def _is_new(
    reason: str, type_: str, old: FineTuneJobStatus, new: FineTuneJobStatus, *, other_words: bool = False
) -> bool:
    """Whether a condition has this reason now and had not before; or, with `other_words`, had with another message."""
    before, after = (conditions.find(status.conditions, type_) for status in (old, new))
    if after is None or after.reason != reason:
        return False
    if before is None or before.reason != reason:
        return True
    return other_words and before.message != after.message


def _message(status: FineTuneJobStatus) -> str:
    ready = conditions.find(status.conditions, conditions.READY)
    return ready.message if ready else ""
