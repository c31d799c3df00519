"""The work queue."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from finetune_operator.queue import TryAgainError, WorkQueue

Handle = Callable[[str], Awaitable[float | None]]


class Worker:
    """Notes every key it is given; holds on to it until told to go on."""

    def __init__(self, *, hold: bool = False) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.go = asyncio.Event()
        if not hold:
            self.go.set()

    async def __call__(self, key: str) -> float | None:
        self.started.append(key)
        await self.go.wait()
        self.ended.append(key)
        return None


async def idle(seconds: float = 0.02) -> None:
    """Time for what must not happen."""
    await asyncio.sleep(seconds)


async def until(what: Callable[[], bool]) -> None:
    """Wait for what must happen, however busy the machine is."""
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_key_that_waits_waits_once() -> None:
    worker = Worker()
    queue = WorkQueue(worker, workers=2)
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert queue.depth == 2
    queue.start()
    await until(lambda: len(worker.ended) == 2)
    assert sorted(worker.ended) == ["a", "b"]
    assert queue.depth == 0
    await queue.stop(seconds=1)


async def test_a_key_in_flight_is_handled_once_more_and_never_twice_at_a_time() -> None:
    worker = Worker(hold=True)
    queue = WorkQueue(worker, workers=4)
    queue.start()
    queue.add("a")
    await idle()
    queue.add("a")
    queue.add("a")
    await idle()
    assert worker.started == ["a"]
    worker.go.set()
    await until(lambda: len(worker.ended) == 2)
    await idle()
    assert worker.ended == ["a", "a"]
    await queue.stop(seconds=1)


async def test_no_more_keys_at_a_time_than_workers() -> None:
    worker = Worker(hold=True)
    queue = WorkQueue(worker, workers=2)
    queue.start()
    for key in "abcd":
        queue.add(key)
    await idle()
    assert len(worker.started) == 2
    worker.go.set()
    await until(lambda: len(worker.ended) == 4)
    assert sorted(worker.ended) == ["a", "b", "c", "d"]
    await queue.stop(seconds=1)


async def test_the_earlier_of_two_times_counts() -> None:
    worker = Worker()
    queue = WorkQueue(worker, workers=1)
    queue.start()
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    await until(lambda: worker.ended == ["a"])
    queue.add_after("a", 60)
    queue.add("a")
    await until(lambda: worker.ended == ["a", "a"])
    await queue.stop(seconds=1)


async def test_what_a_handler_asks_for_is_done() -> None:
    calls: list[str] = []

    async def handle(key: str) -> float | None:
        calls.append(key)
        return 0.01 if len(calls) < 3 else None

    queue = WorkQueue(handle, workers=1)
    queue.start()
    queue.add("a")
    await until(lambda: len(calls) == 3)
    await idle(0.05)
    assert calls == ["a", "a", "a"]
    await queue.stop(seconds=1)


@pytest.mark.parametrize("error", [ValueError("a bug"), TryAgainError("busy")])
async def test_failures_back_off_ever_longer_and_are_forgotten_on_success(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    async def handle(key: str) -> float | None:
        calls.append(key)
        if len(calls) <= 3 or len(calls) == 5:
            raise error
        return None

    with caplog.at_level("INFO"):
        queue = WorkQueue(handle, workers=1, first_retry_seconds=0.01)
        queue.start()
        queue.add("a")
        await until(lambda: len(calls) == 4)
        queue.add("a")
        await until(lambda: len(calls) == 6)
        await queue.stop(seconds=1)
    assert [record.args[-1] for record in caplog.records if isinstance(record.args, tuple)] == [
        0.01,
        0.02,
        0.04,
        0.01,
    ]


async def test_a_bug_is_logged_with_its_traceback_and_what_passes_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(key: str) -> float | None:
        raise ValueError("a bug") if key == "bug" else TryAgainError("busy", 60)

    with caplog.at_level("INFO"):
        queue = WorkQueue(handle, workers=1)
        queue.start()
        queue.add("bug")
        queue.add("busy")
        await until(lambda: len(caplog.records) == 2)
        await queue.stop(seconds=1)
    bug, busy = caplog.records
    assert bug.exc_info is not None
    assert busy.exc_info is None
    assert busy.message == "busy; next try in 60.0 s"


@pytest.mark.parametrize("asked_for", ["in hand", "later"])
async def test_nobody_has_a_key_handled_before_the_time_that_was_asked_for(asked_for: str) -> None:
    calls: list[float] = []

    async def handle(key: str) -> float | None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            if asked_for == "in hand":
                queue.add(key)
            raise TryAgainError("busy", 0.2)
        return None

    queue = WorkQueue(handle, workers=1, first_retry_seconds=0.01)
    queue.start()
    queue.add("a")
    await until(lambda: len(calls) == 1)
    if asked_for == "later":
        queue.add("a")
    await until(lambda: len(calls) == 2)
    assert calls[1] - calls[0] >= 0.2
    # Only once: now it is for the next worker.
    queue.add("a")
    assert queue.depth == 1
    await until(lambda: len(calls) == 3)
    await queue.stop(seconds=1)


async def test_stopping_lets_what_is_in_hand_finish_and_drops_the_rest() -> None:
    worker = Worker(hold=True)
    queue = WorkQueue(worker, workers=1)
    queue.start()
    queue.add("a")
    queue.add("b")
    queue.add_after("c", 0.01)
    await idle()
    stopping = asyncio.create_task(queue.stop(seconds=30))
    await idle()
    queue.add("d")
    worker.go.set()
    await asyncio.wait_for(stopping, 30)
    assert worker.ended == ["a"]


async def test_stopping_does_not_wait_for_ever() -> None:
    worker = Worker(hold=True)
    queue = WorkQueue(worker, workers=1)
    queue.start()
    queue.add("a")
    await idle()
    await asyncio.wait_for(queue.stop(seconds=0.05), 30)
    assert worker.ended == []
