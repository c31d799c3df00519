"""Pure: what the pods of a gang, or one that is alone, need beside their Job; and when to see that it is there.

Pods that have not all started may wait for a ConfigMap or a Service that somebody deleted, and no watch tells. Those
that run need the Service until they have met, and the NetworkPolicy for their protection. That they have met is known
when the trainer tells of its work.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_api import names
from finetune_api.status import Phase
from finetune_operator.lifecycle.outcome import Needs, Outcome, Situation
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation.observed import GangJob

# By then, most pods have started.
FIRST_LOOK = timedelta(seconds=15)
RARE_LOOK = timedelta(minutes=10)


def keep_up(
    situation: Situation, outcome: Outcome, job: GangJob, manifests: Sequence[Manifest], *, nodes: int
) -> Outcome:
    """`outcome` with what the pods of a Job under way need: `manifests` without the Job itself.

    As long as pods have yet to start, or to meet, the next look is after as long again as that has lasted: a back-off
    that needs no memory. So hundreds of jobs that wait for GPUs cost next to nothing.
    """
    phase = (outcome.status or situation.status).phase
    if phase is None or phase is Phase.RESTARTING:
        return outcome
    if phase.is_terminal and job.attempt != names.PUBLISHING:
        return outcome
    needed = tuple(manifest for manifest in manifests if _can_be_made_again(manifest, job))
    pods = situation.observed.pods_of(job)
    if sum(pod.running for pod in pods) >= nodes and phase is not Phase.STARTING:
        return replace(outcome, needs=Needs(needed, RARE_LOOK))
    waited = situation.now - (job.created or situation.now)
    if waited < FIRST_LOOK:
        return outcome.within((FIRST_LOOK - waited).total_seconds())
    again = min(waited, RARE_LOOK)
    # Half of it: the last look may have come late.
    return replace(outcome, needs=Needs(needed, again / 2)).within(again.total_seconds())


def _can_be_made_again(manifest: Manifest, job: GangJob) -> bool:
    """Whether it is what the pods ask for: once the spec has changed, nobody can tell what their ConfigMap held.

    If they have not started yet, their startup deadline ends them.
    """
    if manifest["kind"] == "ConfigMap":
        return bool(manifest["metadata"]["name"] == job.config)
    return bool(manifest["kind"] != "Job")


class Looks:
    """When it was last seen to the needs of each job. In memory only: after a restart, one look more is no harm."""

    def __init__(self) -> None:
        self._last: dict[Hashable, datetime] = {}

    def due(self, key: Hashable, every: timedelta, now: datetime) -> bool:
        """Whether it is time for a look, which is then taken to be made."""
        last = self._last.get(key)
        if last is not None and now - last < every:
            return False
        self._last[key] = now
        return True

    def forget(self, key: Hashable) -> None:
        """Drop what is known of a job."""
        self._last.pop(key, None)
