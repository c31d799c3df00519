"""Lists what is watched, from time to time: checks the watches, and has every job looked at again."""

import asyncio
import logging
import random
import time

import aiohttp

from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key, Resource
from finetune_operator.metrics import Metrics
from finetune_operator.queue import WorkQueue
from finetune_operator.watch_health import Watch, WatchHealth

logger = logging.getLogger(__name__)

PATROL_SECONDS = 30.0
RESYNC_SECONDS = 600.0
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
        *,
        seconds: float,
    ) -> None:
        """`seconds` lie between two lists, or more where listing takes long."""
        self._cluster = cluster
        self._health = health
        self._queue = queue
        self._metrics = metrics
        self._seconds = seconds
        self._next_resync = time.monotonic() + RESYNC_SECONDS

    def look_at_all(self) -> None:
        """Have every job looked at with the next list: something has changed that concerns them all."""
        self._next_resync = time.monotonic()

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
        jobs: set[Key] = set()
        behind: set[str] = set()
        for watch in Watch:
            listed = await self._cluster.versions(Resource(watch.group_version, watch.plural), watch.selector)
            missing = self._health.compare(watch, listed)
            behind |= {namespace for namespace, _ in missing}
            if watch is Watch.FINETUNEJOBS:
                jobs = {Key(*name) for name in listed}
        self._metrics.last_list.set_to_current_time()
        for sentence in self._health.dead():
            logger.error(sentence)
        for job in jobs:
            if job.namespace in behind:
                self._queue.add(job)
        if time.monotonic() >= self._next_resync:
            self._next_resync = time.monotonic() + RESYNC_SECONDS
            self._metrics.last_resync.set_to_current_time()
            for job in jobs:
                self._queue.add_after(job, random.uniform(0, self._seconds))
