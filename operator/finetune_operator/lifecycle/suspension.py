"""Pure: what spec.suspend asks for, from giving back all that runs to going on.

    nothing has begun        → nothing is made, and the spec may still be corrected
    an attempt is open       → write its end to the status
    anything is left of it,  → delete its Job: the pods save the state and end, and what they still report is told
      of a preparation or
      of a merging
    nothing is left          → write the phase Suspended
    spec.suspend is false    → write the time that it took; what comes next begins at once

Only when nothing runs any more is the phase Suspended: what a suspended job held is free for others. The end of an
attempt is on record before its Job is deleted, as any other's. A preparation has no record: the next one finds what it
left on the volume. Nor has a merging, which begins anew; the model is trained, and never is again.
"""

from finetune_api import names
from finetune_api.failure import SUSPENDED
from finetune_api.plan import study
from finetune_api.status import Attempt, FineTuneJobStatus, Phase, Plan, newest_state
from finetune_operator.lifecycle import departure, ends, steps
from finetune_operator.lifecycle.heard import reported
from finetune_operator.lifecycle.launch import about_to_create
from finetune_operator.lifecycle.outcome import Outcome, Situation, write
from finetune_operator.observation.observed import GangJob
from finetune_operator.status import conditions, progress, transitions
from finetune_operator.status.conditions import Standing


def hold(situation: Situation) -> Outcome:
    """The job was made suspended, and has not begun: show what would be trained."""
    status = situation.status.model_copy(
        update={
            "phase": Phase.SUSPENDED,
            "defaults": situation.subject.defaults,
            "plan": study(situation.job.spec).plan,
        }
    )
    message = "nothing has begun, and everything may still be changed; spec.suspend: false begins"
    return write(situation.subject, status, Standing.SUSPENDED, transitions.SUSPENDED, message, situation.now)


def is_ending(situation: Situation, job: GangJob) -> bool:
    """Whether a gang comes to its end by itself: that is judged before it is suspended."""
    # Pods that Kueue takes away from a gang say nothing of how it ends.
    pods = [] if job.waits else situation.observed.pods_of(job)
    return job.over or any(pod.end is not None or pod.finished is not None for pod in pods)


def end(situation: Situation, attempt: Attempt, job: GangJob | None) -> Outcome:
    """Write the end of the open attempt; nothing of it is touched before that is on record."""
    status = reported(situation, attempt, job)
    ended = ends.ended(status, situation.now, reason=SUSPENDED.reason, message="spec.suspend was set to true")
    status = status.model_copy(
        update={
            "attempts": [*status.attempts[:-1], ended],
            "progress": progress.without_forecast(status.progress),
        }
    )
    words = _saving(departure.ending(situation.observed.pods))
    outcome = write(
        situation.subject, status, Standing.UNDERWAY, transitions.SUSPENDING, words, situation.now
    )
    return outcome.within(0)


def was_cause(attempt: Attempt) -> bool:
    """Whether the attempt was ended by a suspension."""
    return attempt.end_time is not None and attempt.reason == SUSPENDED.reason


def give_back(situation: Situation) -> Outcome:
    """No attempt is open: remove all that is left; the job is suspended when nothing is."""
    observed, status = situation.observed, last_words(situation)
    if not (observed.jobs or observed.pods):
        return _rest(situation)
    ending = departure.ending(observed.pods)
    saves = bool(status.attempts) and was_cause(status.attempts[-1])
    message = _saving(ending) if saves else ending
    return departure.wait(situation, status, transitions.SUSPENDING, message)


def last_words(situation: Situation) -> FineTuneJobStatus:
    """The status with what the pods of an attempt that a suspension ended still tell while they end."""
    status = situation.status
    attempt = status.attempts[-1] if status.attempts else None
    job = situation.observed.job_of(attempt.number) if attempt else None
    if attempt is None or job is None or not was_cause(attempt):
        return status
    status = reported(situation, attempt, job)
    ended = status.attempts[-1]
    ended = ended.model_copy(update={"last_step": progress.last_step(ended, status.progress)})
    return status.model_copy(
        update={
            "attempts": [*status.attempts[:-1], ended],
            "progress": progress.without_forecast(status.progress),
        }
    )


def resume(situation: Situation) -> Outcome:
    """The job is suspended, and is not to be any more."""
    status, now = situation.status, situation.now
    suspended = conditions.find(status.conditions, conditions.SUSPENDED)
    lasted = int((now - suspended.last_transition_time).total_seconds()) if suspended else 0
    following = _following(status)
    status = status.model_copy(
        update={
            "phase": Phase.MERGING if following == names.MERGING else Phase.PENDING,
            "suspended_seconds": (status.suspended_seconds or 0) + max(0, lasted),
            "defaults": situation.subject.defaults,
            "plan": _plan(situation),
        }
    )
    return write(situation.subject, status, Standing.UNDERWAY, *about_to_create(following), now).within(0)


def _following(status: FineTuneJobStatus) -> int:
    """The attempt, or the other step, that a suspension has put off."""
    if steps.is_trained(status):
        return names.MERGING
    return status.attempts[-1].number + 1 if status.attempts else names.PREPARATION


def _rest(situation: Situation) -> Outcome:
    status = situation.status.model_copy(update={"phase": Phase.SUSPENDED, "plan": _plan(situation)})
    if steps.is_trained(status):
        message = "nothing runs, and the adapter is complete; spec.suspend: false merges it"
    else:
        saved = newest_state(status.checkpoints)
        state = f"the state of step {saved} is saved" if saved else "no step is saved yet"
        message = f"nothing runs, and {state}; spec.resources may be changed, and spec.suspend: false goes on"
    return write(situation.subject, status, Standing.SUSPENDED, transitions.SUSPENDED, message, situation.now)


def _plan(situation: Situation) -> Plan | None:
    """The plan, after a change of the number of processes with what follows from that as far as it can be known.

    The rest stays as the trainer found it: it goes on with the batches that it began with, on however many processes.
    """
    known, fresh = situation.status.plan, study(situation.job.spec).plan
    if known is None or known.world_size == fresh.world_size or steps.is_trained(situation.status):
        return known
    of_resources = (
        "world_size",
        "max_tokens_per_gpu",
        "micro_batches_per_step",
        "memory_per_gpu",
        "activation_checkpointing",
        "accumulate_locally",
        "warnings",
    )
    return known.model_copy(update={field: getattr(fresh, field) for field in of_resources})


def _saving(ending: str) -> str:
    return f"saving the state; {ending}"
