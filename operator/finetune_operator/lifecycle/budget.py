"""Pure: how often a job is started again, and after which pause.

Two budgets, because there are two kinds of ends: what may be the job's own doing (failurePolicy.maxRestarts), and what
is the cluster's (maxDisruptions). A state to go on from that is newer than all before fills both up again: a run that
gets on may be interrupted for ever. An end without a cause that anybody could name is given up on sooner, if attempt
after attempt ends so without a single new step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile

from finetune_api.failure import Recovery, Verdict
from finetune_api.spec import FailurePolicy
from finetune_api.status import Attempt, FineTuneJobStatus, SinceCheckpoint, newest_state

# Between the starts of two attempts; it doubles with every one that leaves no newer state.
FIRST_PAUSE = timedelta(seconds=10)
LAST_PAUSE = timedelta(minutes=5)


@dataclass(frozen=True)
class Charge:
    """What an end costs."""

    since: SinceCheckpoint
    """Both budgets afterwards."""
    counted: bool = False
    """It took one of maxRestarts."""
    refusal: str | None = None
    """Why there is no further attempt, as a sentence."""


def charge(status: FineTuneJobStatus, verdict: Verdict, policy: FailurePolicy) -> Charge:
    """What the end of the newest attempt costs; `status` has its last step and the checkpoints that it left."""
    since = filled_up(status)
    if verdict.recovery is Recovery.FAIL:
        return Charge(since)
    if verdict.recovery is Recovery.RESUME:
        used, allowed, cost = (
            since.disruptions,
            policy.max_disruptions,
            {"disruptions": since.disruptions + 1},
        )
    else:
        used, allowed, cost = since.restarts, policy.max_restarts, {"restarts": since.restarts + 1}
    if used >= allowed:
        refusal = used_up(policy, verdict.recovery)
        if allowed > 0:
            refusal += f", and there is no newer state than that of step {since.step}"
        return Charge(since, refusal=f"{refusal}.")
    if verdict.patience is not None and _repetitions(status.attempts, verdict.reason) >= verdict.patience:
        words = (
            f"So it ended {verdict.patience + 1} times without a new step in between, and would end again."
        )
        return Charge(since, refusal=words)
    return Charge(since.model_copy(update=cost), counted=verdict.recovery is Recovery.RESTART)


def pause(status: FineTuneJobStatus) -> timedelta:
    """How long after the start of the newest attempt the next one may start.

    One that ran for longer than that is followed at once.
    """
    since = status.since_checkpoint or SinceCheckpoint(step=0)
    repeated = max(0, since.restarts + since.disruptions - 1)
    return min(FIRST_PAUSE * (1 << min(repeated, 10)), LAST_PAUSE)


def used_up(policy: FailurePolicy, recovery: Recovery) -> str:
    """That nothing is left of the budget that such an end is charged to, as the beginning of a sentence."""
    if recovery is Recovery.RESUME:
        return f"No disruptions are left: spec.failurePolicy.maxDisruptions is {policy.max_disruptions}"
    return f"No restarts are left: spec.failurePolicy.maxRestarts is {policy.max_restarts}"


def filled_up(status: FineTuneJobStatus) -> SinceCheckpoint:
    """Both budgets, after what the newest attempt left."""
    known = status.since_checkpoint or SinceCheckpoint(step=0)
    newest = newest_state(status.checkpoints)
    return SinceCheckpoint(step=newest) if newest > known.step else known


def _repetitions(attempts: Sequence[Attempt], reason: str) -> int:
    """How many attempts before the newest ended for this reason and had come as far as it did."""
    reached = max(attempt.last_step or 0 for attempt in attempts)
    # What the cluster ended in between proves nothing.
    charged = [attempt for attempt in attempts[:-1] if attempt.counted]
    alike = takewhile(lambda attempt: attempt.reason == reason, reversed(charged))
    count = 0
    for attempt in alike:
        so_far = max(other.last_step or 0 for other in attempts if other.number <= attempt.number)
        count += so_far >= reached
    return count
