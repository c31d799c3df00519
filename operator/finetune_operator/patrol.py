"""Lists what is watched, from time to time: checks the watches, and has every job looked at again."""

import asyncio
import logging
import random
import time

import aiohttp

from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key, Resource
from finetune_operator.known import Known
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.monitoring.watch_health import Watch, WatchHealth
from finetune_operator.queue import WorkQueue

logger = logging.getLogger(__name__)

PATROL_SECONDS = 30.0
RESYNC_SECONDS = 600.0
# When jobs are looked at again, it is no more of them than this in a second, on average: what comes meanwhile must not
# wait for ten thousand that are over, should something have changed that concerns them all.
RESYNC_LOOKS_PER_SECOND = 50
# So many are put on the queue at once, before others of the event loop have their turn.
_ENQUEUED_AT_ONCE = 500
# Listing may take this part of the time at most: the more objects there are, the rarer the lists.
MAX_LISTING_SHARE = 0.05


class Patrol:
    """The periodic list."""

    def __init__(
        self,
        cluster: Cluster,
        health: WatchHealth,
        queue: WorkQueue[Key],
        metrics: Metrics,
        known: Known,
        *,
        seconds: float,
    ) -> None:
        """`seconds` lie between two lists, or more where listing takes long."""
        self._cluster = cluster
        self._health = health
        self._queue = queue
        self._metrics = metrics
        self._known = known
        self._seconds = seconds
        self._next_resync = time.monotonic() + RESYNC_SECONDS
        self._all = False

    def look_at_all(self) -> None:
        """Have every job looked at with the next list: something has changed that concerns them all."""
        self._all = True

    async def run(self) -> None:
        """Patrol until cancelled."""
        while True:
            started = time.monotonic()
            try:
                await self.once()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                # No list, no verdict: an API server that is away is no fault of the watches.
                logger.warning("the periodic list failed: %s", error)
            rest = (time.monotonic() - started) / MAX_LISTING_SHARE
            await asyncio.sleep(max(self._seconds, rest) * random.uniform(0.9, 1.1))

    async def once(self) -> None:
        """List every watched kind once, and enqueue the jobs of namespaces where events are missing."""
        jobs: dict[Key, str] = {}
        gone: set[Key] = set()
        behind: set[str] = set()
        for watch in Watch:
            listed = await self._cluster.versions(Resource(watch.group_version, watch.plural), watch.selector)
            missing = self._health.compare(watch, listed)
            behind |= {namespace for namespace, _ in missing}
            if watch is Watch.FINETUNEJOBS:
                jobs = {Key(*name): version for name, version in listed.items()}
                gone = {Key(*name) for name in missing} - jobs.keys()
        self._metrics.last_list.set_to_current_time()
        for sentence in self._health.dead():
            logger.error(sentence)
        # One that is gone is forgotten. About one that is over, in this very version, nothing is left to do.
        for job in (
            *gone,
            *(job for job, version in jobs.items() if not self._known.is_at_rest(job, version)),
        ):
            if job.namespace in behind:
                self._known.calls(job)
                self._queue.add(job)
        if self._all or time.monotonic() >= self._next_resync:
            every, self._all = self._all, False
            due = [job for job, version in jobs.items() if every or not self._known.is_at_rest(job, version)]
            spread = max(self._seconds, len(due) / RESYNC_LOOKS_PER_SECOND)
            for number, job in enumerate(due, start=1):
                self._known.calls(job)
                self._queue.add_after(job, random.uniform(0, spread))
                if number % _ENQUEUED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._next_resync = time.monotonic() + RESYNC_SECONDS
            self._metrics.last_resync.set_to_current_time()
