"""Events from changes of the status."""

from finetune_api.precedents import HALVED
from finetune_api.status import Advice, Attempt, Choice, FineTuneJobStatus, Plan
from finetune_operator.status.conditions import Standing, conditions
from finetune_operator.status.transitions import events
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
    invalid = rejected("Invalid", "spec.a: no")
    assert reasons(FineTuneJobStatus(), invalid) == ["Invalid"]
    assert reasons(invalid, rejected("Invalid", "spec.c: no")) == []
    assert reasons(invalid, rejected("Unknown", "spec.b: no")) == ["Unknown"]


def planned(budget: int, reason: str | None = None) -> FineTuneJobStatus:
    """A job with counted steps whose micro-batches have up to so many tokens, for a reason."""
    field = "spec.hyperparameters.maxTokensPerGpu"
    chosen = [] if reason is None else [Choice(field=field, value=budget, reason=reason)]
    plan = Plan(
        learning_rate=1e-5,
        num_epochs=1,
        max_tokens_per_gpu=budget,
        world_size=2,
        total_steps=100,
        chosen=chosen,
    )
    return FineTuneJobStatus(plan=plan)


def test_a_budget_that_memory_halved_is_told_with_both_numbers() -> None:
    halved = planned(8192, f"{HALVED} at step 7: 15,000 tokens did not fit")
    [event] = events(planned(16384), halved)
    assert (event.reason, event.type) == ("TokenBudgetHalved", "Warning")
    assert event.message == (
        "maxTokensPerGpu is 8,192 in the place of 16,384, halved after running out of memory at step 7: "
        "15,000 tokens did not fit. The result stays the same"
    )
    assert events(halved, halved) == ()
    assert reasons(halved, planned(4096, f"{HALVED} at step 9")) == ["TokenBudgetHalved"]


def test_a_budget_that_falls_with_other_hardware_is_no_news() -> None:
    assert reasons(planned(16384, "the most that fits"), planned(8192, "the most that fits")) == []
    assert reasons(planned(16384), planned(32768, f"{HALVED} at step 7")) == []


def attempted(*resumed: int | None) -> FineTuneJobStatus:
    """A job whose attempts told that they went on from these steps."""
    return FineTuneJobStatus(
        attempts=[
            Attempt(number=number, start_time=START, resumed_from_step=step)
            for number, step in enumerate(resumed, start=1)
        ]
    )


def test_where_an_attempt_goes_on_is_told_once_it_is_known() -> None:
    before, after = attempted(None, 8, None), attempted(None, 8, 24)
    [event] = events(before, after)
    assert (event.reason, event.type, event.message) == (
        "Continued",
        "Normal",
        "attempt 3 goes on from step 24",
    )
    assert reasons(after, after) == []


def test_an_attempt_that_finds_nothing_to_go_on_from_is_a_warning() -> None:
    [event] = events(attempted(None, None), attempted(None, 0))
    assert (event.reason, event.type) == ("StartedOver", "Warning")
    assert "attempt 2" in event.message


def advised(*rules: str, message: str = "2.50 is high") -> FineTuneJobStatus:
    """A job whose plan has these warnings."""
    warnings = [Advice(rule=rule, field="spec.lora.r", message=message) for rule in rules]
    return FineTuneJobStatus(plan=Plan(learning_rate=1e-5, num_epochs=1, world_size=2, warnings=warnings))


def test_what_the_course_of_training_shows_is_told_when_it_begins_to() -> None:
    before = advised("lora-r-high")
    after = advised("lora-r-high", "lora-underfits")
    [event] = events(before, after)
    assert (event.type, event.reason, event.message) == ("Warning", "Advice", "spec.lora.r: 2.50 is high")
    # Its figures change at the end of every epoch.
    assert reasons(after, advised("lora-r-high", "lora-underfits", message="2.45 is high")) == []
    assert reasons(after, before) == []


def test_what_the_spec_alone_shows_is_no_event() -> None:
    assert reasons(FineTuneJobStatus(), advised("lora-r-high")) == []
