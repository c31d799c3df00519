"""Runs whose processes are killed end as if nothing had happened: the same models to the last bit, every step once."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from trainer.faults import DIRECTORIES, OUTPUT, STATE, WEIGHTS, Fault, Moment
from trainer.survival import STEPS, STEPS_PER_EPOCH, Course, Result

IN_TRAINING = [
    (Moment.MICRO_BATCH, "", 5),
    (Moment.GRADIENTS, "", 2),
    (Moment.STEP, "", 2),
    (Moment.BEGUN, "", 2),
]
WRITING = (Moment.START, Moment.FILE, Moment.MANIFEST, Moment.RENAME)
ON_FIRST = [
    *((moment, STATE, 1) for moment in (*WRITING, Moment.VISIBLE, Moment.REMOVE)),
    (Moment.REMOVING, STATE, 2),
    *((moment, WEIGHTS, 1) for moment in (*WRITING, Moment.VISIBLE)),
    # Those of the same step, which an earlier attempt left.
    (Moment.REMOVE, WEIGHTS, 1),
    (Moment.REMOVING, WEIGHTS, 2),
    *((moment, OUTPUT, 1) for moment in WRITING),
]
# Once the output is there, nothing is trained any more: what came last ends a run.
LAST = {1: (Moment.VISIBLE, OUTPUT, 1), 2: (Moment.REMOVING, STATE, 2)}


def test_nothing_happens(undisturbed: dict[int, Result]) -> None:
    weights = [f"checkpoints/step-{step:08d}" for step in range(STEPS_PER_EPOCH, STEPS + 1, STEPS_PER_EPOCH)]
    for result in undisturbed.values():
        assert [step.step for step in result.steps] == list(range(1, STEPS + 1))
        assert list(result.models) == [*weights, "output"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_rank_0_is_killed_at_every_moment_one_after_the_other(
    survivors: Path, undisturbed: dict[int, Result], world_size: int
) -> None:
    course = Course(survivors, {"everySteps": 1, "keepLast": 1})
    for moment, directory, nth in [*IN_TRAINING, *ON_FIRST, LAST[world_size]]:
        fault = Fault(course.storage, moment, directory, nth)
        assert course.attempt(world_size, fault)[0] == -9, f"not hit: {fault}"
    assert course.finish(world_size) == undisturbed[world_size]


def test_another_rank_is_killed_at_every_moment_one_after_the_other(
    survivors: Path, undisturbed: dict[int, Result]
) -> None:
    course = Course(survivors, {"everySteps": 1, "keepLast": 1})
    for moment, directory, nth in [*IN_TRAINING, (Moment.FILE, STATE, 1), (Moment.FILE, STATE, 2)]:
        fault = Fault(course.storage, moment, directory, nth, rank=1)
        assert course.attempt(2, fault)[1] == -9, f"not hit: {fault}"
    assert course.finish(2) == undisturbed[2]


hits = st.fixed_dictionaries(
    {
        # Most of them at any file: there are many such moments.
        "moment": st.sampled_from([*Moment] + [Moment.CHANGE] * len(Moment)),
        "directory": st.sampled_from(["", *DIRECTORIES]),
        "nth": st.integers(1, 80),
        "rank": st.sampled_from([0, 0, 1]),
        "torn": st.booleans(),
    }
)


@given(
    world_size=st.sampled_from([1, 2]),
    checkpoints=st.fixed_dictionaries(
        {
            "everySteps": st.integers(1, 4),
            "keepLast": st.integers(1, 2),
            "fullStateAtEpoch": st.booleans(),
        }
    ),
    hits=st.lists(hits, min_size=1, max_size=4),
)
# Without shrinking: it would take minutes, and what is found here is short.
@settings(max_examples=12, derandomize=True, phases=(Phase.explicit, Phase.generate))
def test_killed_at_any_moments(
    survivors: Path,
    undisturbed: dict[int, Result],
    world_size: int,
    checkpoints: dict[str, Any],
    hits: list[dict[str, Any]],
) -> None:
    course = Course(survivors, checkpoints)
    for hit in hits:
        rank = hit["rank"] % world_size
        fault = Fault(course.storage, hit["moment"], hit["directory"], hit["nth"], rank)
        course.attempt(world_size, fault, torn=hit["torn"])
    assert course.finish(world_size) == undisturbed[world_size]
