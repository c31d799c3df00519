"""How often a job is started again, and after which pause."""

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.failure import Recovery, Verdict
from finetune_api.spec import FailurePolicy
from finetune_api.status import Attempt, FineTuneJobStatus, SinceCheckpoint
from finetune_operator.lifecycle.budget import charge, pause
from world import START, checkpoint

POLICY = FailurePolicy(max_restarts=2, max_disruptions=3)
ERROR = Verdict("Error", "boom", Recovery.RESTART, patience=2)
KILLED = Verdict("Killed", "killed", Recovery.RESTART)
DRAINED = Verdict("Disrupted", "drained", Recovery.RESUME)


def attempts(*ends: tuple[str, int | None]) -> list[Attempt]:
    """Attempts with these reasons and last steps; all but the cluster's ends were charged."""
    return [
        Attempt(
            number=number,
            start_time=START,
            reason=reason,
            last_step=step,
            counted=reason != "Disrupted" and number < len(ends),
        )
        for number, (reason, step) in enumerate(ends, start=1)
    ]


def status(**fields: Any) -> FineTuneJobStatus:
    return FineTuneJobStatus.model_validate({"attempts": attempts(("Error", 1))} | fields)


def since(step: int, restarts: int = 0, disruptions: int = 0) -> SinceCheckpoint:
    return SinceCheckpoint(step=step, restarts=restarts, disruptions=disruptions)


def test_each_kind_of_end_is_charged_to_its_own_budget() -> None:
    known = status(since_checkpoint=since(10, 1, 1))
    restart, disruption = charge(known, KILLED, POLICY), charge(known, DRAINED, POLICY)
    assert (restart.since, restart.counted, restart.refusal) == (since(10, 2, 1), True, None)
    assert (disruption.since, disruption.counted, disruption.refusal) == (since(10, 1, 2), False, None)


@pytest.mark.parametrize("kind", ["resume", "fullState"])
def test_a_newer_state_fills_both_up_before_the_end_is_charged(kind: str) -> None:
    known = status(since_checkpoint=since(10, 2, 3), checkpoints=[checkpoint(12, kind)])
    assert charge(known, KILLED, POLICY).since == since(12, 1, 0)
    assert charge(known, DRAINED, POLICY).since == since(12, 0, 1)


@pytest.mark.parametrize("saved", [[], [checkpoint(10, "resume")], [checkpoint(12)]])
def test_nothing_else_does(saved: list[Any]) -> None:
    known = status(since_checkpoint=since(10, 2, 3), checkpoints=saved)
    restart, disruption = charge(known, KILLED, POLICY), charge(known, DRAINED, POLICY)
    assert restart.since == disruption.since == since(10, 2, 3)
    assert not restart.counted
    assert "spec.failurePolicy.maxRestarts is 2" in (restart.refusal or "")
    assert "spec.failurePolicy.maxDisruptions is 3" in (disruption.refusal or "")
    assert "step 10" in (restart.refusal or "")


def test_what_is_given_up_costs_nothing() -> None:
    verdict = Verdict("InvalidData", "bad row", Recovery.FAIL)
    charged = charge(status(since_checkpoint=since(10, 1)), verdict, POLICY)
    assert (charged.since, charged.counted, charged.refusal) == (since(10, 1), False, None)


@pytest.mark.parametrize(
    ("ends", "given_up"),
    [
        # Twice again, and it came no further: the third time, it has had its chances.
        ([("Error", 100), ("Error", 100), ("Error", 100)], True),
        ([("Error", None), ("Error", None), ("Error", None)], True),
        ([("Error", 100), ("Error", 90), ("Error", None)], True),
        ([("Error", 100), ("Error", 100)], False),
        # A step further, and it counts from there.
        ([("Error", 100), ("Error", 100), ("Error", 101)], False),
        ([("Error", 100), ("Error", 101), ("Error", 101)], False),
        ([("Error", 100), ("Error", 101), ("Error", 101), ("Error", 101)], True),
        # Something else in between may have had a hand in it; the cluster has not.
        ([("Error", 100), ("Killed", 100), ("Error", 100)], False),
        ([("Error", 100), ("Disrupted", 100), ("Error", 100), ("Disrupted", None), ("Error", 100)], True),
    ],
)
def test_patience_ends_where_no_new_step_is_reached(
    ends: list[tuple[str, int | None]], given_up: bool
) -> None:
    charged = charge(status(attempts=attempts(*ends)), ERROR, FailurePolicy(max_restarts=1000))
    assert (charged.refusal is not None) is given_up
    assert charged.counted is not given_up


def test_attempts_that_leave_no_newer_state_are_started_ever_more_rarely() -> None:
    pauses = [pause(status(since_checkpoint=since(0, n % 2, n - n % 2))).total_seconds() for n in range(1, 9)]
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    assert pause(status(since_checkpoint=since(0, 900, 9000))) == timedelta(minutes=5)
    assert pause(status()) == timedelta(seconds=10)
