"""Telling a watch that died from a cluster that is quiet."""

import pytest

from finetune_operator.monitoring.watch_health import Watch, WatchHealth


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> WatchHealth:
    return WatchHealth(clock)


A = ("team", "a")


def test_a_quiet_cluster_is_healthy(health: WatchHealth, clock: Clock) -> None:
    health.seen(Watch.PODS, *A, "1")
    for _ in range(10):
        clock.now += 3600
        assert health.compare(Watch.PODS, {A: "1"}) == []
    assert health.dead() == []


def test_a_version_that_no_event_brings_within_a_minute_is_a_dead_watch(
    health: WatchHealth, clock: Clock
) -> None:
    health.seen(Watch.PODS, *A, "1")
    health.compare(Watch.PODS, {A: "2"})
    clock.now += 60
    health.compare(Watch.PODS, {A: "2"})
    assert health.dead() == []
    clock.now += 1
    health.compare(Watch.PODS, {A: "3"})
    [sentence] = health.dead()
    assert "pods" in sentence
    assert "team/a" in sentence
    assert health.alive() == {"finetunejobs": True, "jobs": True, "pods": False}


def test_one_list_that_was_ahead_of_the_watch_is_no_dead_watch_however_long_the_next_one_takes(
    health: WatchHealth, clock: Clock
) -> None:
    health.compare(Watch.PODS, {A: "2"})
    health.seen(Watch.PODS, *A, "2")
    clock.now += 3600
    assert health.dead() == []
    health.compare(Watch.PODS, {A: "2"})
    assert health.dead() == []


def test_an_object_that_no_event_brought_at_all(health: WatchHealth, clock: Clock) -> None:
    health.compare(Watch.FINETUNEJOBS, {A: "1"})
    clock.now += 61
    health.compare(Watch.FINETUNEJOBS, {A: "1"})
    assert health.dead()


def test_an_end_that_no_event_brought_convicts_no_watch(health: WatchHealth, clock: Clock) -> None:
    # It may have come while the watch began anew with a list, which tells of nothing that is gone.
    health.seen(Watch.JOBS, *A, "1")
    assert health.compare(Watch.JOBS, {}) == []
    clock.now += 61
    assert health.compare(Watch.JOBS, {}) == [A]
    assert health.dead() == []
    clock.now += 61
    assert health.compare(Watch.JOBS, {}) == []
    # Who has that name next is as any other that no event brought.
    health.compare(Watch.JOBS, {A: "7"})
    clock.now += 61
    health.compare(Watch.JOBS, {A: "7"})
    assert health.dead()


def test_a_late_event_heals(health: WatchHealth, clock: Clock) -> None:
    health.compare(Watch.PODS, {A: "2"})
    clock.now += 100
    health.seen(Watch.PODS, *A, "2")
    health.compare(Watch.PODS, {A: "2"})
    assert health.dead() == []
    health.compare(Watch.PODS, {A: "3"})
    clock.now += 30
    health.gone(Watch.PODS, *A)
    health.compare(Watch.PODS, {})
    clock.now += 100
    assert health.dead() == []


def test_a_busy_object_that_list_and_watch_race_for_is_no_fault(health: WatchHealth, clock: Clock) -> None:
    for version in range(10):
        health.seen(Watch.PODS, *A, str(version))
        health.compare(Watch.PODS, {A: str(version + 1)})
        clock.now += 45
    assert health.dead() == []


def test_one_dead_watch_does_not_blame_the_others(health: WatchHealth, clock: Clock) -> None:
    health.compare(Watch.JOBS, {A: "1"})
    health.seen(Watch.PODS, *A, "1")
    clock.now += 61
    health.compare(Watch.PODS, {A: "1"})
    health.compare(Watch.JOBS, {A: "1"})
    [sentence] = health.dead()
    assert "jobs" in sentence


def test_what_is_behind_is_named_once_it_is_not_just_a_race(health: WatchHealth, clock: Clock) -> None:
    assert health.compare(Watch.JOBS, {A: "1"}) == []
    clock.now += 30
    assert health.compare(Watch.JOBS, {A: "1"}) == [A]


def test_ages(health: WatchHealth, clock: Clock) -> None:
    clock.now += 5
    health.seen(Watch.PODS, *A, "1")
    clock.now += 2
    assert health.ages() == {"finetunejobs": 7, "jobs": 7, "pods": 2}
