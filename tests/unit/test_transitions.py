"""Events from changes of the status."""

from finetune_api.status import FineTuneJobStatus
from finetune_operator.conditions import Standing, conditions
from finetune_operator.transitions import events
from world import START, checkpoint


def reasons(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[str]:
    return [event.reason for event in events(old, new)]


def test_a_checkpoint_is_told_once() -> None:
    old = FineTuneJobStatus(checkpoints=[checkpoint(1)])
    new = FineTuneJobStatus(checkpoints=[checkpoint(1), checkpoint(2), checkpoint(2, "resume")])
    assert reasons(old, new) == ["CheckpointSaved", "CheckpointSaved"]
    assert reasons(new, new) == []


def test_an_old_checkpoint_that_is_listed_again_is_no_news() -> None:
    old = FineTuneJobStatus(checkpoints=[checkpoint(2), checkpoint(3, "resume")])
    new = FineTuneJobStatus(checkpoints=[checkpoint(1), checkpoint(2)])
    assert reasons(old, new) == []


def test_the_event_names_step_and_place() -> None:
    [event] = events(FineTuneJobStatus(), FineTuneJobStatus(checkpoints=[checkpoint(7)]))
    assert "step 7" in event.message
    assert "demo/checkpoints/step-00000007" in event.message


def rejected(reason: str, message: str) -> FineTuneJobStatus:
    told = conditions(Standing.REJECTED, reason, message, dataset=None, generation=1, now=START, previous=[])
    return FineTuneJobStatus(conditions=told)


def test_a_rejection_is_told_again_only_for_another_reason() -> None:
    invalid, unsupported = rejected("Invalid", "spec.a: no"), rejected("NotSupported", "spec.b: not yet")
    assert reasons(FineTuneJobStatus(), invalid) == ["Invalid"]
    assert reasons(invalid, rejected("Invalid", "spec.c: no")) == []
    assert reasons(invalid, unsupported) == ["NotSupported"]
