"""What there is of a FineTuneJob: which of it has to be read to decide what to do, and how it is read."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import aiohttp

from finetune_api.status import Phase
from finetune_operator import kueue
from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.endpoint.reports import Reports
from finetune_operator.kinds import Key
from finetune_operator.lifecycle import cleanup, publishing
from finetune_operator.lifecycle.gang import lacks_pods, unexplained
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.objects.workload import Installation
from finetune_operator.observation.observed import Observed, Pod, Subject

logger = logging.getLogger(__name__)


def is_at_rest(subject: Subject) -> bool:
    """Whether the job is over, and nothing is left to be done but what its time to live asks for.

    Its pods may lie there for months; nothing that they say can matter any more.
    """
    over = subject.status.phase is Phase.SUCCEEDED or subject.status.cleanup_time is not None
    return over and publishing.is_settled(subject)


class Observer:
    """Looks at what belongs to FineTuneJobs."""

    def __init__(self, cluster: Cluster, reports: Reports) -> None:
        self._cluster = cluster
        self._reports = reports

    async def observe(self, key: Key, subject: Subject, now: datetime) -> Observed:
        """All that a decision about a job rests on."""
        if cleanup.is_due(subject, now):
            belongings, others = await asyncio.gather(
                self._cluster.belongings(subject), self._cluster.others(subject)
            )
            return replace(belongings, others=others)
        if subject.status.start_time is None or is_at_rest(subject):
            # Nothing of it can have been made, and what has its name and is another's is looked for later.
            return Observed()
        if subject.status.phase is Phase.FAILED:
            # Whatever they told is on record, and it may lie there for months.
            self._reports.forget(key)
        observed = await self._cluster.belongings(subject)
        newest = observed.newest
        own = observed.pods_of(newest) if newest is not None else []
        wanted = subject.job.spec.resources.nodes if subject.job and newest and newest.attempt > 0 else 1
        observed = replace(observed, watching_since=self._listening_since(key, own, wanted, now))
        if newest is None:
            return observed
        observed = replace(observed, report=self._reports.newest(key, newest.uid))
        if newest.waits and newest.queue is not None:
            workload = await self._cluster.workload(subject.namespace, newest.uid)
            return replace(observed, wait=kueue.wait(workload, newest.queue, newest.priority))
        if lacks_pods(newest, own, wanted, now):
            said = await self._complaint(subject.namespace, "Job", newest.name)
            jobs = (replace(job, hindered=said) if job is newest else job for job in observed.jobs)
            observed = replace(observed, jobs=tuple(jobs))
        silent = unexplained(own, now)
        if silent is None or (said := await self._complaint(subject.namespace, "Pod", silent.name)) is None:
            return observed
        pods = (replace(pod, waiting=said) if pod is silent else pod for pod in observed.pods)
        return replace(observed, pods=tuple(pods))

    async def ahead(
        self, subject: Subject, outcome: Outcome, now: datetime, installation: Installation
    ) -> Observed | None:
        """What could be in the way of a job that is about to begin; None if it is not.

        It may be looked at while the beginning goes on record: nothing of this job has been made before that, and what
        is there of others, in pods and in names, is there already.
        """
        if subject.status.start_time is not None or outcome.status is None or outcome.requeue_after != 0:
            return None
        begun = replace(subject, status=outcome.status)
        manifests = reconcile(begun, Observed(), now, installation).apply
        try:
            belongings, taken = await asyncio.gather(
                self._cluster.belongings(begun), self._cluster.taken(manifests, begun)
            )
        except (ApiError, aiohttp.ClientError, TimeoutError):
            # Who follows looks for himself, and meets what is wrong.
            return None
        since = self._reports.hearing.since(Key(subject.namespace, subject.name), now)
        return replace(belongings, taken=taken, watching_since=since)

    def _listening_since(self, key: Key, pods: Sequence[Pod], wanted: int, now: datetime) -> datetime | None:
        """From when on its trainers could be heard; that they should be, if so many of its pods run."""
        hearing = self._reports.hearing
        if sum(pod.running and pod.finished is None and not pod.is_going for pod in pods) >= wanted:
            hearing.runs(key, now)
        else:
            hearing.rests(key)
        return hearing.since(key, now)

    async def _complaint(self, namespace: str, kind: str, name: str) -> tuple[str, str] | None:
        """What its events say is wrong with an object; None if they cannot be read: nothing is decided by them."""
        try:
            return await self._cluster.complaint(namespace, kind, name)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("the events of %s %s cannot be read: %s", kind, name, error)
            return None
