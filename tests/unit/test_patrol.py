"""The periodic list, and the look at every job."""

import asyncio
import time
from typing import Any, cast
from unittest.mock import patch

from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key, Resource
from finetune_operator.known import Known
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.monitoring.watch_health import Watch, WatchHealth
from finetune_operator.patrol import RESYNC_LOOKS_PER_SECOND, RESYNC_SECONDS, Patrol
from finetune_operator.queue import WorkQueue

SECONDS = 30.0


class Many:
    """A cluster with so many FineTuneJobs, and nothing else."""

    def __init__(self, jobs: int) -> None:
        self._jobs = {("team", f"job-{number}"): "1" for number in range(jobs)}

    async def versions(self, resource: Resource, selector: str) -> dict[tuple[str, str], str]:
        """As Cluster.versions."""
        return self._jobs if resource.plural == Watch.FINETUNEJOBS.plural else {}


class Delays:
    """A queue that notes when keys are wanted."""

    def __init__(self) -> None:
        self.seconds: dict[Key, float] = {}

    def add(self, key: Key) -> None:
        """As WorkQueue.add."""
        self.seconds[key] = 0.0

    def add_after(self, key: Key, seconds: float) -> None:
        """As WorkQueue.add_after."""
        self.seconds[key] = seconds


def look_at_all(jobs: int) -> tuple[list[float], int]:
    """After how many seconds each of so many jobs is looked at again, and how often others had their turn before."""
    queue = Delays()
    patrol = Patrol(
        cast(Cluster, Many(jobs)),
        WatchHealth(),
        cast("WorkQueue[Any]", queue),
        Metrics(),
        Known(),
        seconds=SECONDS,
    )
    patrol.look_at_all()

    async def once() -> int:
        turns, patrolling = 0, asyncio.create_task(patrol.once())
        while not patrolling.done():
            turns += 1
            await asyncio.sleep(0)
        patrolling.result()
        return turns

    turns = asyncio.run(once())
    return sorted(queue.seconds.values()), turns


def test_few_jobs_are_all_looked_at_before_the_next_list() -> None:
    delays, _ = look_at_all(100)
    assert len(delays) == 100
    assert delays[-1] <= SECONDS


def test_many_jobs_are_looked_at_one_after_the_other() -> None:
    delays, turns = look_at_all(10_000)
    assert len(delays) == 10_000
    assert delays[-1] <= 10_000 / RESYNC_LOOKS_PER_SECOND
    for second in range(0, int(delays[-1]), 10):
        within = sum(second <= delay < second + 10 for delay in delays)
        # They are drawn at random: within six standard deviations.
        assert within < 10 * RESYNC_LOOKS_PER_SECOND * 1.3
    # Others need not wait until all are on the queue.
    assert turns > 10


def test_a_look_at_all_that_is_asked_for_meanwhile_is_made_with_the_next_list() -> None:
    queue, health = Delays(), WatchHealth()
    # Else the second list would find that events are missing.
    for number in range(1_000):
        health.seen(Watch.FINETUNEJOBS, "team", f"job-{number}", "1")
    patrol = Patrol(
        cast(Cluster, Many(1_000)), health, cast("WorkQueue[Any]", queue), Metrics(), Known(), seconds=SECONDS
    )

    async def asked_twice() -> None:
        patrol.look_at_all()
        patrolling = asyncio.create_task(patrol.once())
        while not queue.seconds:  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        assert not patrolling.done()
        patrol.look_at_all()
        await patrolling
        queue.seconds.clear()
        await patrol.once()

    asyncio.run(asked_twice())
    assert len(queue.seconds) == 1_000


class Two(Many):
    """A cluster with a job that runs, and one that is over."""

    RUNNING, OVER = Key("team", "running"), Key("team", "over")

    def __init__(self) -> None:
        self._jobs = {(key.namespace, key.name): "3" for key in (self.RUNNING, self.OVER)}


def rounds(known: Known) -> tuple[Patrol, Delays]:
    """Of a cluster with two jobs, whose events have all been heard."""
    health, queue = WatchHealth(), Delays()
    for key in (Two.RUNNING, Two.OVER):
        health.seen(Watch.FINETUNEJOBS, key.namespace, key.name, "3")
    patrol = Patrol(
        cast(Cluster, Two()), health, cast("WorkQueue[Any]", queue), Metrics(), known, seconds=SECONDS
    )
    return patrol, queue


async def test_what_is_at_rest_is_not_looked_at_again() -> None:
    """Of thousands of jobs, most are over: to read them all again and again would be most of the work at rest."""
    known = Known()
    known.rests(Two.OVER, "3")
    patrol, queue = rounds(known)
    await patrol.once()
    assert not queue.seconds, "not yet"
    later = time.monotonic() + RESYNC_SECONDS
    with patch("time.monotonic", lambda: later):
        await patrol.once()
    assert set(queue.seconds) == {Two.RUNNING}
    known.rests(Two.OVER, "2", for_good=True)
    with patch("time.monotonic", lambda: later + RESYNC_SECONDS):
        await patrol.once()
    assert set(queue.seconds) == {Two.RUNNING, Two.OVER}, "it has changed"
    assert not known.is_settled(Two.OVER)


async def test_a_missing_event_has_the_jobs_of_its_namespace_looked_at_that_are_not_over() -> None:
    known = Known()
    known.rests(Two.OVER, "3", for_good=True)
    patrol, queue = rounds(known)
    with patch.object(
        WatchHealth, "compare", lambda _, watch, listed: [("team", "a-pod")] * (watch is Watch.PODS)
    ):
        await patrol.once()
    assert queue.seconds == {Two.RUNNING: 0}
    assert known.is_settled(Two.OVER)


async def test_a_job_that_is_gone_without_an_event_is_looked_at_to_be_forgotten() -> None:
    patrol, queue = rounds(Known())
    gone = Key("team", "gone")
    health = patrol._health
    health.seen(Watch.FINETUNEJOBS, gone.namespace, gone.name, "1")
    for _ in range(2):
        await patrol.once()
    assert queue.seconds[gone] == 0


async def test_a_change_that_concerns_all_has_all_looked_at_once() -> None:
    known = Known()
    known.rests(Two.OVER, "3")
    patrol, queue = rounds(known)
    patrol.look_at_all()
    await patrol.once()
    assert set(queue.seconds) == {Two.RUNNING, Two.OVER}
    queue.seconds.clear()
    await patrol.once()
    assert not queue.seconds
