"""A work queue of keys: each key waits at most once, and is worked on by at most one worker at a time."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 300.0


class TryAgainError(Exception):
    """A key cannot be handled just now, for a reason that passes: it comes back, and no traceback is logged.

    `seconds` is how long to wait at least, whoever asks for the key meanwhile.
    """

    def __init__(self, message: str, seconds: float = 0) -> None:
        super().__init__(message)
        self.seconds = seconds


class WorkQueue(Generic[Key]):
    """Keys to be handled, level-triggered: what happens to a key while it waits is covered by its one turn.

    `handle` returns the seconds after which it wants the key again, or None. When it raises, the error is logged and
    the key comes back after a time that doubles with every failure in a row. `waited` is told the seconds for which a
    key has waited for its turn.
    """

    def __init__(
        self,
        handle: Callable[[Key], Awaitable[float | None]],
        *,
        workers: int,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._handle = handle
        self._workers = workers
        self._first_retry_seconds = first_retry_seconds
        self._waited = waited
        self._ready: asyncio.Queue[Key | None] = asyncio.Queue()
        self._dirty: dict[Key, float] = {}
        self._in_flight: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._dirty)

    @property
    def in_flight(self) -> int:
        """Keys that workers have in hand."""
        return len(self._in_flight)

    def add(self, key: Key) -> None:
        """Have a key handled as soon as a worker is free."""
        if self._closed:
            return
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if key in self._dirty:
            return
        now = time.monotonic()
        if (wait := self._not_before.get(key, now) - now) > 0:
            self.add_after(key, wait)
            return
        self._dirty[key] = now
        # A key in flight is put back when its worker is done with it.
        if key not in self._in_flight:
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have a key handled in some time, or earlier if something else asks for it."""
        if self._closed or key in self._dirty:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if (timer := self._timers.get(key)) is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self.add, key)

    def start(self) -> None:
        """Start the workers in the running event loop."""
        self._tasks = [
            asyncio.create_task(self._work(), name=f"worker {number}") for number in range(self._workers)
        ]

    async def stop(self, *, seconds: float) -> None:
        """Take no more keys, let the workers finish what they have in hand, and end them after this time at most.

        What still waits is dropped: it will be seen again by whoever starts next.
        """
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for _ in self._tasks:
            self._ready.put_nowait(None)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while (key := await self._ready.get()) is not None and not self._closed:
            self._waited(time.monotonic() - self._dirty.pop(key))
            self._in_flight.add(key)
            self._not_before.pop(key, None)
            try:
                again = await self._handle(key)
            except TryAgainError as reason:
                again = max(self._back_off(key), reason.seconds)
                if reason.seconds > 0:
                    self._not_before[key] = time.monotonic() + reason.seconds
                    # What has asked for it meanwhile, such as the event of its own write, has to wait, too.
                    self._dirty.pop(key, None)
                # `handle` has said, for all that its task logs, what it is about (see logs.about).
                logger.info("%s; next try in %.1f s", reason, again)
            except Exception:
                again = self._back_off(key)
                logger.exception("reconciling failed; next try in %.1f s", again)
            else:
                self._failures.pop(key, None)
            finally:
                self._in_flight.discard(key)
            if key in self._dirty:
                self._ready.put_nowait(key)
            elif again is not None:
                self.add_after(key, again)

    def _back_off(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return min(self._first_retry_seconds * 2.0 ** min(failures - 1, 30), LAST_RETRY_SECONDS)
