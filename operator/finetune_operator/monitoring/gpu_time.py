"""Pure: for how long a gang had its GPUs, and how much of that time its restarts have thrown away.

An attempt has its GPUs from its start to its end, but for the time in the queue. When a later one goes on from the
state of step s, the steps after s are done again. Of the attempt that had done them, as large a share of its time is
lost as they are of all steps that it did; of one that had done none, all.

    GPU-seconds = GPUs of the gang x (seconds of all attempts - seconds in the queue)
    wasted      = GPU-seconds x (lost seconds of the attempts / seconds of all attempts)

Nothing is lost of an attempt before a later one has found the state that it goes on from, so what a failed job used
is not counted as wasted. The gang is taken to have been as large all the time as it is now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_api.status import Attempt, FineTuneJobStatus, Phase


@dataclass(frozen=True)
class GpuTime:
    """What a job has had of the cluster's GPUs so far."""

    used: float
    """GPU-seconds."""
    wasted: float
    """Those of them whose work was done again."""
    held: int
    """GPUs that it has now."""


def gpu_time(status: FineTuneJobStatus, gpus: int, now: datetime) -> GpuTime:
    """What the attempts that the status lists had of `gpus` GPUs each, at the moment `now`."""
    seconds = sum(_seconds(attempt, now) for attempt in status.attempts)
    if seconds <= 0:
        return GpuTime(used=0, wasted=0, held=_held(status, gpus))
    lost = sum(
        _seconds(attempt, now) * _lost_share(attempt, status.attempts[index + 1 :])
        for index, attempt in enumerate(status.attempts)
    )
    used = gpus * max(0.0, seconds - queue_seconds(status, now))
    return GpuTime(used=used, wasted=used * lost / seconds, held=_held(status, gpus))


def queue_seconds(status: FineTuneJobStatus, now: datetime) -> float:
    """How long a job has waited in its queue, in all."""
    queue = status.queue
    if queue is None:
        return 0
    waits = (now - queue.waiting_since).total_seconds() if queue.waiting_since is not None else 0
    return queue.waited_seconds + max(0.0, waits)


def _held(status: FineTuneJobStatus, gpus: int) -> int:
    has_gang = bool(status.attempts) and status.attempts[-1].end_time is None
    over = status.phase is not None and status.phase.is_terminal
    return gpus if has_gang and not over and status.phase is not Phase.QUEUED else 0


def _seconds(attempt: Attempt, now: datetime) -> float:
    return max(0.0, ((attempt.end_time or now) - attempt.start_time).total_seconds())


def _lost_share(attempt: Attempt, later: Sequence[Attempt]) -> float:
    """The share of an attempt's time whose work later attempts did, or do, again."""
    goes_on_from = [other.resumed_from_step for other in later if other.resumed_from_step is not None]
    if not goes_on_from:
        return 0
    first = attempt.resumed_from_step or 0
    done = (attempt.last_step or first) - first
    if done <= 0:
        return 1
    kept = min(done, max(0, min(goes_on_from) - first))
    return 1 - kept / done
