"""What people are told of a job beside its status: events, and that its status cannot be read."""

import logging
from collections.abc import Callable
from datetime import datetime

import aiohttp

from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key
from finetune_operator.observation.observed import Subject
from finetune_operator.observation.reading import UnreadableStatusError
from finetune_operator.status import conditions
from finetune_operator.status.conditions import UNREADABLE
from finetune_operator.status.transitions import Event

logger = logging.getLogger(__name__)


class Teller:
    """Tells of jobs. That it cannot is logged, and is no reason to do anything again."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._unreadable: dict[Key, str] = {}

    async def tell(self, subject: Subject, event: Event) -> None:
        """Post an event."""
        logger.info(event.message, extra={"event": event.reason})
        try:
            await self._cluster.post(subject, event)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            # The status has it all; an event more or less is no reason to do the turn again.
            logger.warning("an event could not be posted: %s", error)

    async def tell_unreadable(self, key: Key, error: UnreadableStatusError) -> None:
        """Say what cannot be read, but not again at everything that happens to the job meanwhile."""
        words = str(error)
        await self._show(error)
        if self._unreadable.get(key) != words:
            self._unreadable[key] = words
            logger.error(words)
            await self.tell(error.subject, Event(UNREADABLE, words, "Warning"))

    def readable(self, key: Key) -> None:
        """The status could be read: if it cannot be one day, that is news."""
        self._unreadable.pop(key, None)

    async def _show(self, error: UnreadableStatusError) -> None:
        """Have the conditions say so, for whoever looks at the job later."""
        subject = error.subject
        found = conditions.unreadable(str(error), generation=subject.generation, now=self._clock())
        if any(
            (told["reason"], told.get("message")) == (UNREADABLE, found[0].message) for told in error.told
        ):
            return
        try:
            await self._cluster.write_conditions(subject, found)
        except (ApiError, aiohttp.ClientError, TimeoutError) as refused:
            # There is the event, and the next turn tries again.
            logger.warning("the conditions could not be written: %s", refused)
