"""One turn of the loop: read the truth, decide, carry out."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import aiohttp

from finetune_api.status import FineTuneJobStatus
from finetune_operator import tenancy
from finetune_operator.api import ApiError
from finetune_operator.clock import utc_now
from finetune_operator.cluster import Cluster, UnknownKindError
from finetune_operator.endpoint.reports import Reports
from finetune_operator.kinds import Key
from finetune_operator.known import Known
from finetune_operator.lifecycle import cleanup
from finetune_operator.lifecycle.gang import LONG_WAIT
from finetune_operator.lifecycle.healing import Looks
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.monitoring import logs
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.objects import volumes
from finetune_operator.objects.workload import Installation
from finetune_operator.observation import reading
from finetune_operator.observation.observed import Observed, Subject
from finetune_operator.observation.reading import UnreadableStatusError, Wire
from finetune_operator.observing import Observer, is_at_rest
from finetune_operator.queue import LAST_RETRY_SECONDS, TryAgainError
from finetune_operator.status.transitions import Event
from finetune_operator.telling import Teller
from finetune_operator.tenancy import Policy

logger = logging.getLogger(__name__)

# After so long it is seen whether what was deleted is going. Its events tell earlier, but none comes where the API
# server was asked in vain and said that it is not there.
GOING_SECONDS = 5.0
# What the API server says, with HTTP 500, of a webhook that it has to ask and that does not answer.
WEBHOOK_FAILS = "failed calling webhook"
# A webhook, and a ValidatingAdmissionPolicy: with whatever status they like.
DENIALS = ("denied the request", "denied request")
# And, with HTTP 403, of whatever would be made in a namespace that somebody has deleted.
NAMESPACE_GOES = "because it is being terminated"


def _waited(status: FineTuneJobStatus, now: datetime) -> timedelta:
    """How long ago at most it was decided to make what there is to be made."""
    times = [status.start_time, status.completion_time]
    times += [time for attempt in status.attempts for time in (attempt.start_time, attempt.end_time)]
    return now - max((time for time in times if time is not None), default=now)


@dataclass(frozen=True)
class _Step:
    """One decision, carried out."""

    again: float | None
    """Seconds after which to look again; 0: at once."""
    changed: bool
    """Whether anything was written."""
    written: Wire | None = None
    """The FineTuneJob as it is after the write of its status, if there was one."""
    ahead: Observed | None = None
    """What there is of it, for the step that follows at once; None: that has to look for itself."""
    rests: bool = False
    """Whether a look at what was written, and at nothing else that is new, would come to nothing."""


class Controller:
    """Reconciles FineTuneJobs."""

    def __init__(
        self,
        cluster: Cluster,
        reports: Reports,
        installation: Callable[[], Installation],
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
        policy: Callable[[], Policy] = Policy,
    ) -> None:
        """`installation` and `policy` tell what the operator has been given, as it is now."""
        self._cluster = cluster
        self._reports = reports
        self._installation = installation
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._observer = Observer(cluster, reports)
        self._teller = Teller(cluster, clock)
        self._looks = Looks()
        self.known = Known()

    def settles(self, key: Key, wire: Wire) -> bool:
        """Whether a job that a watch has brought is over, and nothing is left to do about it: it need not be read.

        So it is with most of them when the operator starts. Only of a job that was not looked at before: a look that
        has begun may know more. If this is out of date, what is newer comes, too.
        """
        if self._metrics.jobs.knows(key.namespace, key.name):
            return False
        if not (wire.get("status") or {}).get("completionTime"):
            # Most of the others; a look reads them anyhow.
            return False
        try:
            subject = reading.subject(wire)
        except UnreadableStatusError:
            # Who looks says so.
            return False
        if not is_at_rest(subject):
            return False
        subject = tenancy.under(self._policy(), subject)
        if reconcile(subject, Observed(), self._clock(), self._installed(key)) != Outcome():
            return False
        self._metrics.jobs.see(subject, subject.status)
        self.known.looks(key)
        self.known.rests(key, subject.resource_version, for_good=True)
        return True

    def _installed(self, key: Key) -> Installation:
        return tenancy.installed(self._installation(), self._policy(), key.namespace)

    async def handle(self, key: Key) -> float | None:
        """Reconcile one FineTuneJob; returns the seconds after which to do it again, or None.

        Raises TryAgainError for what passes by itself: a conflict, an API server that is overloaded or away.
        """
        if self.known.is_settled(key):
            # Whatever a pod still told is on record.
            self._forget(key)
            return None
        self.known.looks(key)
        logs.about(key.namespace, key.name)
        started = time.perf_counter()
        result = "error"
        try:
            result, again = await self._turn(key)
        except ApiError as error:
            if error.status == 404 or NAMESPACE_GOES in str(error):
                # The FineTuneJob, or its namespace, went while we looked at it; its own event says so too.
                result = "gone"
                return None
            if error.status == 409:
                # Someone else wrote between our read and our write: what was decided may be wrong by now.
                result = "conflict"
                raise TryAgainError(str(error)) from error
            if error.status == 429 or error.status >= 500:
                result = "unavailable"
                raise TryAgainError(str(error), error.retry_after or 0) from error
            raise
        except UnreadableStatusError as error:
            # Neither believed nor thrown away: pods may run, or have run, that only the status tells of.
            await self._teller.tell_unreadable(key, error)
            return LAST_RETRY_SECONDS
        except (aiohttp.ClientError, TimeoutError) as error:
            result = "unavailable"
            raise TryAgainError(f"the API server cannot be reached: {error!r}") from error
        finally:
            self._metrics.reconcile_seconds.labels(result=result).observe(time.perf_counter() - started)
        return again

    async def _turn(self, key: Key) -> tuple[str, float | None]:
        if (wire := self.known.take_new(key)) is not None:
            try:
                return await self._look(key, reading.subject(wire))
            except ApiError as error:
                # It was out of date, unless something else was: the truth tells.
                if error.status not in (404, 409):
                    raise
        subject = await self._cluster.subject(key)
        self._teller.readable(key)
        if subject is None:
            self._forget(key)
            self.known.forget(key)
            self._metrics.jobs.forget(key.namespace, key.name)
            return "idle", None
        return await self._look(key, subject)

    async def _look(self, key: Key, subject: Subject) -> tuple[str, float | None]:
        telling: list[asyncio.Task[None]] = []
        try:
            return await self._steps(key, subject, telling)
        finally:
            # They are about what is on record, whatever came of what followed.
            await asyncio.gather(*telling)

    async def _steps(
        self, key: Key, subject: Subject, telling: list[asyncio.Task[None]]
    ) -> tuple[str, float | None]:
        """One step, and those that follow at once; `telling` gets what tells of them meanwhile."""
        result, ahead = "idle", None
        while True:
            step = await self._step(key, subject, telling, ahead)
            if step.changed:
                result = "changed"
            if step.written is None:
                return result, step.again
            goes_on = step.again == 0
            if goes_on or step.rests:
                self.known.written(key, step.written["metadata"]["resourceVersion"])
            if not goes_on:
                return result, step.again
            # What is to follow at once does, and does not wait behind all other jobs that were made meanwhile.
            subject, ahead = reading.subject(step.written), step.ahead

    async def _step(
        self, key: Key, subject: Subject, telling: list[asyncio.Task[None]], ahead: Observed | None
    ) -> _Step:
        subject = tenancy.under(self._policy(), subject)
        if attempts := subject.status.attempts:
            logs.more_about(attempt=attempts[-1].number)
        now, installation = self._clock(), self._installed(key)
        observed = ahead or await self._observer.observe(key, subject, now)
        observed = replace(observed, refusal=subject.refusal)
        outcome = reconcile(subject, observed, now, installation)
        if outcome.apply:
            if ahead is None:
                observed = replace(observed, taken=await self._cluster.taken(outcome.apply, subject))
            if not observed.taken:
                observed = replace(observed, refusal=await self._apply(outcome, _waited(subject.status, now)))
            if observed.taken or observed.refusal:
                outcome = reconcile(subject, observed, now, installation)
        written, ahead = await asyncio.gather(
            self._carry_out(subject, outcome), self._observer.ahead(subject, outcome, now, installation)
        )
        # What follows does not wait for it. Names of events say in which order they happened.
        telling += [asyncio.create_task(self._teller.tell(subject, event)) for event in outcome.events]
        self._metrics.jobs.see(subject, outcome.status or subject.status)
        mended = await self._mend(key, subject, outcome, now)
        if outcome.delete or outcome.remove:
            outcome = outcome.within(GOING_SECONDS)
        acted = bool(outcome.delete or outcome.remove or outcome.apply or mended)
        step = _Step(outcome.requeue_after, acted or outcome.status is not None, written, ahead)
        over = is_at_rest(subject)
        if over:
            self._forget(key)
        # While what belongs to it goes, events tell how far that is.
        if over and not step.changed and not cleanup.is_due(subject, now):
            self.known.rests(key, subject.resource_version, for_good=step.again is None)
        else:
            self.known.stirs(key)
        if outcome.status is None or acted or outcome.requeue_after == 0:
            return step
        then = reconcile(replace(subject, status=outcome.status), observed, now, installation)
        if then.delete or then.remove or then.apply or then.status or then.needs != outcome.needs:
            return step
        if then.requeue_after is not None:
            outcome = outcome.within(then.requeue_after)
        return replace(step, again=outcome.requeue_after, rests=True)

    async def _apply(self, outcome: Outcome, waited: timedelta) -> str | None:
        """Apply all objects, the last of them last; returns the API server's words if it will not have one.

        So it is with a webhook that does not answer, once that has been `waited` for: nobody else would tell.
        """
        *others, last = outcome.apply
        try:
            if volumes.has_image(last) and not await self._cluster.keeps_volumes(last):
                return volumes.NO_IMAGES
            await asyncio.gather(*(self._cluster.apply(manifest) for manifest in others))
            await self._cluster.apply(last)
        except UnknownKindError as error:
            return str(error)
        except ApiError as error:
            silent = error.status == 500 and WEBHOOK_FAILS in str(error) and waited >= LONG_WAIT
            denied = any(words in str(error) for words in DENIALS)
            if error.status in (400, 403, 422) or denied or silent:
                return str(error)
            raise
        return None

    async def _carry_out(self, subject: Subject, outcome: Outcome) -> Wire | None:
        """Delete and write; returns the FineTuneJob as it is after the write, None if there was none."""
        await asyncio.gather(
            *(self._cluster.delete(subject.namespace, job) for job in outcome.delete),
            *(self._cluster.remove(subject.namespace, other) for other in outcome.remove),
        )
        if outcome.status is None:
            return None
        return await self._cluster.write_status(subject, outcome.status)

    async def _mend(self, key: Key, subject: Subject, outcome: Outcome, now: datetime) -> bool:
        """See to what pods need, if it is time for that; says whether anything was missing."""
        needs = outcome.needs
        if needs is None or not self._looks.due(key, needs.every, now):
            return False
        missing = await self._cluster.missing(needs.manifests)
        for manifest in missing:
            await self._cluster.apply(manifest)
            what = f"{manifest['kind']} {manifest['metadata']['name']}"
            await self._teller.tell(
                subject, Event("Recreated", f"{what} was missing, and is made again", "Warning")
            )
        return bool(missing)

    def _forget(self, key: Key) -> None:
        self._reports.forget(key)
        self._looks.forget(key)
