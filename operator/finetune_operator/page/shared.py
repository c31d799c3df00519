"""What many open pages ask for, read once for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# An answer may be so old,
SECONDS = 2.0
# and is kept longer where it took long: reading for pages takes no more than this share of the time.
SHARE = 0.2


class Shared(Generic[T]):
    """The answer to a question, asked again only when it is too old, and by one at a time.

    A failure is an answer, too: an API server in trouble is not asked more often than one that does well.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = asyncio.Lock()
        self._answer: asyncio.Future[T] | None = None
        self._good_until = 0.0

    async def get(self) -> T:
        """The answer, or the exception that is in its place."""
        async with self._lock:
            if self._answer is None or self._clock() >= self._good_until:
                self._answer = await self._asked()
        return self._answer.result()

    async def _asked(self) -> "asyncio.Future[T]":
        started = self._clock()
        task = asyncio.ensure_future(self._ask())
        await asyncio.wait([task])
        ended = self._clock()
        self._good_until = ended + max(SECONDS, (ended - started) / SHARE)
        return task
