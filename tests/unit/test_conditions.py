"""Conditions as people and tools read them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api.status import Condition
from finetune_operator.status import conditions as of_a_job
from finetune_operator.status.conditions import Standing, conditions, find, is_true
from world import DATASET

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def of(
    standing: Standing, *, now: datetime = NOW, previous: list[Condition] | None = None
) -> list[Condition]:
    return conditions(
        standing, "Reason", "message", dataset=None, generation=4, now=now, previous=previous or []
    )


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
        (Standing.SUSPENDED, "InProgress"),
        (Standing.SUCCEEDED, "Current"),
        (Standing.FAILED, "Failed"),
        (Standing.REJECTED, "Failed"),
        (Standing.HELD_BACK, "Failed"),
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
        if condition.type not in ("Accepted", "Suspended"):
            assert (condition.reason, condition.message) == ("Reason", "message")


def test_an_accepted_job_says_so_whatever_becomes_of_it() -> None:
    accepted = find(of(Standing.FAILED), "Accepted")
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("True", "Valid")
    rejected = find(of(Standing.REJECTED), "Accepted")
    assert rejected is not None
    assert (rejected.status, rejected.message) == ("False", "message")


def test_what_a_job_is_suspended_for_is_no_reason_why_another_is_not() -> None:
    told = {standing: find(of(standing), "Suspended") for standing in Standing}
    suspended = {standing for standing, found in told.items() if found and found.status == "True"}
    assert suspended == {Standing.SUSPENDED, Standing.HELD_BACK}
    others = {found.reason for standing, found in told.items() if found and standing not in suspended}
    assert others == {"NotSuspended"}


def test_the_time_of_a_transition_is_that_of_the_status_not_of_the_message() -> None:
    before = of(Standing.UNDERWAY)
    later = NOW + timedelta(hours=1)
    after = of(Standing.SUCCEEDED, now=later, previous=before)
    times = {condition.type: condition.last_transition_time for condition in after}
    assert times["Accepted"] == times["Stalled"] == NOW
    assert times["Ready"] == times["Succeeded"] == times["Progressing"] == times["Reconciling"] == later


def prepared(standing: Standing, **known: Any) -> Condition:
    arguments: dict[str, Any] = {"dataset": None, "generation": 4, "now": NOW, "previous": []} | known
    found = find(conditions(standing, "Reason", "message", **arguments), "Prepared")
    assert found is not None
    return found


@pytest.mark.parametrize("standing", list(Standing))
def test_data_that_are_known_stay_prepared_whatever_becomes_of_the_job(standing: Standing) -> None:
    found = prepared(standing, dataset=DATASET, faults=["never told"])
    assert (found.status, found.reason) == ("True", "DataPrepared")
    assert found.message == "100 samples of 1,000 tokens, 500 of them with loss; left out: 1 too long"


def test_everything_that_was_left_out_is_counted() -> None:
    sparse = DATASET.model_copy(update={"dropped": 0, "invalid": 1200, "empty": 3})
    assert prepared(Standing.UNDERWAY, dataset=sparse).message.endswith("; left out: 1,200 invalid, 3 empty")
    whole = DATASET.model_copy(update={"dropped": 0})
    assert prepared(Standing.UNDERWAY, dataset=whole).message.endswith("with loss")


def test_a_failure_before_the_data_were_known_tells_every_fault_that_has_room() -> None:
    faults = [f"line {number}: " + "x" * 240 for number in range(100)]
    found = prepared(Standing.FAILED, faults=faults)
    assert (found.status, found.reason) == ("False", "Reason")
    assert found.message == "\n".join(["message", *faults])
    assert prepared(Standing.FAILED, faults=["message", "line 9"]).message == "message\nline 9"


def test_a_newer_generation_changes_nothing_else() -> None:
    before = of(Standing.FAILED)
    after = of_a_job.at_generation(before, 5)
    assert {condition.observed_generation for condition in after} == {5}
    assert [c.model_copy(update={"observed_generation": 4}) for c in after] == before
