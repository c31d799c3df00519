"""Conditions as people and tools read them."""

from datetime import UTC, datetime, timedelta

import pytest

from finetune_api.status import Condition
from finetune_operator.conditions import Standing, conditions, find, is_true

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def of(
    standing: Standing, *, now: datetime = NOW, previous: list[Condition] | None = None
) -> list[Condition]:
    return conditions(standing, "Reason", "message", generation=4, now=now, previous=previous or [])


def kstatus(found: list[Condition]) -> str:
    """What Flux's library makes of them, observedGeneration being up to date."""
    for condition in found:
        if condition.type == "Reconciling" and condition.status == "True":
            return "InProgress"
        if condition.type == "Stalled" and condition.status == "True":
            return "Failed"
    ready = find(found, "Ready")
    return "Current" if ready is None or ready.status == "True" else "InProgress"


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (Standing.UNDERWAY, "InProgress"),
        (Standing.BLOCKED, "Failed"),
        (Standing.SUCCEEDED, "Current"),
        (Standing.FAILED, "Failed"),
        (Standing.REJECTED, "Failed"),
    ],
)
def test_kstatus_understands(standing: Standing, expected: str) -> None:
    assert kstatus(of(standing)) == expected
    assert kstatus(list(reversed(of(standing)))) == expected


@pytest.mark.parametrize("standing", list(Standing))
def test_never_stalled_and_reconciling_at_once(standing: Standing) -> None:
    assert not (is_true(of(standing), "Stalled") and is_true(of(standing), "Reconciling"))


def test_each_speaks_of_the_generation_and_says_why() -> None:
    for condition in of(Standing.FAILED):
        assert condition.observed_generation == 4
        if condition.type != "Accepted":
            assert (condition.reason, condition.message) == ("Reason", "message")


def test_an_accepted_job_says_so_whatever_becomes_of_it() -> None:
    accepted = find(of(Standing.FAILED), "Accepted")
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("True", "Valid")
    rejected = find(of(Standing.REJECTED), "Accepted")
    assert rejected is not None
    assert (rejected.status, rejected.message) == ("False", "message")


def test_the_time_of_a_transition_is_that_of_the_status_not_of_the_message() -> None:
    before = of(Standing.UNDERWAY)
    later = NOW + timedelta(hours=1)
    after = of(Standing.SUCCEEDED, now=later, previous=before)
    times = {condition.type: condition.last_transition_time for condition in after}
    assert times["Accepted"] == times["Stalled"] == NOW
    assert times["Ready"] == times["Succeeded"] == times["Progressing"] == times["Reconciling"] == later
