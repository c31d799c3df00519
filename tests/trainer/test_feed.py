"""The feed: every step whole and in order, ahead of whoever takes it but not far, and an end to it at any time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_trainer import feed
from finetune_trainer.batches import Schedule
from finetune_trainer.feed import Feed
from finetune_trainer.inputs import Inputs
from finetune_trainer.prepare.arrow import Ids, Part, Samples, SampleWriter
from finetune_trainer.prepare.encode import MASKED, Encoded

CPU = torch.device("cpu")
# Seven samples: two batches of three, and a short one.
LENGTHS = (5, 21, 1, 12, 8, 30, 3)
SCHEDULE = Schedule(len(LENGTHS), batch_size=3, seed=1)
STEPS = 2 * SCHEDULE.steps_per_epoch


def encoded(sample: int) -> Encoded:
    """A sample whose tokens tell which one it is; loss on every token, or on every one but the first two."""
    ids = [100 * sample + token for token in range(LENGTHS[sample])]
    return Encoded(ids, ids if sample % 2 else [MASKED] * min(2, len(ids)) + ids[2:])


def predicted(sample: int) -> int:
    """Tokens of a sample that loss is taken on: nothing predicts the first one."""
    return max(0, LENGTHS[sample] - (1 if sample % 2 else 2))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("samples")
    with SampleWriter(found, "samples") as writer:
        writer.write(Part.of((sample, encoded(sample)) for sample in range(len(LENGTHS))))
    return found


@pytest.fixture
def samples(directory: Path) -> Samples:
    return Samples(directory)


@contextmanager
def feeding(
    samples: Samples,
    *,
    budget: int = 30,
    rank: int = 0,
    world_size: int = 1,
    first: int = 0,
    last: int = STEPS,
) -> Iterator[Feed]:
    """A feed that is closed, and whose thread is gone then."""
    found = Feed(
        samples,
        SCHEDULE,
        budget=budget,
        rank=rank,
        world_size=world_size,
        device=CPU,
        first=first,
        last=last,
    )
    try:
        yield found
    finally:
        found.close()
        assert "feed" not in {thread.name for thread in threading.enumerate()}


def taken(samples: Samples, **options: int) -> list[tuple[int, list[Inputs]]]:
    """All steps with all their micro-batches."""
    with feeding(samples, **options) as steps:
        return [(step.index, list(step.micro_batches)) for step in steps]


def members(inputs: Inputs) -> list[int]:
    """The samples of a micro-batch, as their tokens tell."""
    assert inputs["boundaries"].tolist() == np.cumsum([0, *inputs["sample_lengths"]]).tolist()
    found = []
    for ids in inputs["input_ids"][0].split(inputs["sample_lengths"]):
        sample = int(ids[0]) // 100
        assert ids.tolist() == encoded(sample).input_ids
        found.append(sample)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_step_has_the_samples_of_its_batch_over_all_processes(
    samples: Samples, world_size: int
) -> None:
    ranks = [taken(samples, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(STEPS):
        found = [micro_batches for rank in ranks for index, micro_batches in rank if index == step]
        assert len({len(micro_batches) for micro_batches in found}) == 1
        real = [
            sample
            for micro_batches in found
            for inputs in micro_batches
            if inputs["sample_lengths"] != [1] or inputs["input_ids"][0, 0] == 200
            for sample in members(inputs)
        ]
        assert sorted(real) == sorted(SCHEDULE.batch(step).samples)
        assert all(inputs["input_ids"].numel() <= 30 for micro_batches in found for inputs in micro_batches)


def test_figures_of_a_step_are_those_of_all_processes_but_the_padding(samples: Samples) -> None:
    with feeding(samples, rank=3, world_size=4) as steps:
        for step in steps:
            chosen = SCHEDULE.batch(step.index).samples
            assert (step.batch.samples == chosen).all()
            assert step.tokens == sum(LENGTHS[sample] for sample in chosen)
            assert step.loss_tokens == sum(map(predicted, chosen))
            # Three samples at most for four processes: this one never has any.
            assert step.padding == len(step.micro_batches) == 1
            [inputs] = step.micro_batches
            assert inputs["input_ids"].numel() == 1
            assert inputs["targets"].numel() == 0
    with feeding(samples) as steps:
        for step in steps:
            assert step.padding == 0
            assert sum(inputs["input_ids"].numel() for inputs in step.micro_batches) == step.tokens


def test_targets_are_what_the_hidden_states_before_them_predict(samples: Samples) -> None:
    for _, micro_batches in taken(samples):
        for inputs in micro_batches:
            ids, at = inputs["input_ids"][0], inputs["predicting"]
            assert (ids[at + 1] == inputs["targets"]).all()
            assert at.numel() == sum(map(predicted, members(inputs)))
            assert {tensor.dtype for tensor in (ids, at, inputs["targets"])} == {torch.int64}
            assert inputs["boundaries"].dtype == torch.int32


@pytest.mark.parametrize("first", [1, 3, 5])
def test_going_on_is_as_never_having_stopped(samples: Samples, first: int) -> None:
    """`first` counts over all epochs: the steps of a later one are there, and not taken for done."""
    whole, rest = taken(samples), taken(samples, first=first)
    assert [index for index, _ in rest] == list(range(first, STEPS))
    for (_, expected), (_, found) in zip(whole[first:], rest, strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one["sample_lengths"] == other["sample_lengths"]
            assert torch.equal(one["input_ids"], other["input_ids"])
            assert torch.equal(one["targets"], other["targets"])


def test_what_goes_wrong_in_the_thread_is_told_to_whoever_takes(samples: Samples) -> None:
    with feeding(samples, budget=29) as steps:
        for _ in range(2):
            with pytest.raises(ValueError, match="sample 5 has 30 tokens, more than the budget of 29"):
                deque(chain.from_iterable(step.micro_batches for step in steps), maxlen=0)


def test_after_the_last_step_there_is_none(samples: Samples) -> None:
    with feeding(samples, first=STEPS) as steps:
        assert next(steps, None) is None
        assert next(steps, None) is None


class Watched(Samples):
    """Samples that count how many were read, and take a while for each."""

    read = 0
    seconds = 0.0

    def __getitem__(self, place: int) -> tuple[Ids, Ids]:
        self.read += 1
        time.sleep(self.seconds)
        return super().__getitem__(place)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def settled(watched: Watched, expected: int) -> int:
    """Samples that are read a moment after those were that are expected to be."""
    wait_until(lambda: watched.read >= expected)
    time.sleep(0.1)
    return watched.read


def test_a_bounded_number_of_micro_batches_is_ahead(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_MICRO_BATCHES_AHEAD", 2)
    watched = Watched(directory)
    sizes = [
        len(inputs["sample_lengths"])
        for _, micro_batches in taken(Samples(directory))
        for inputs in micro_batches
    ]
    two, three = sum(sizes[:2]), sum(sizes[:3])
    with feeding(watched, first=0, last=100 * STEPS) as steps:
        assert settled(watched, two) == two
        micro_batches = iter(next(steps).micro_batches)
        assert settled(watched, two) == two
        next(micro_batches)
        assert settled(watched, three) == three


def test_closing_in_the_middle_of_a_step_ends_the_thread(samples: Samples) -> None:
    with feeding(samples, budget=30, last=1000 * STEPS) as steps:
        next(iter(next(steps).micro_batches))


def test_closing_while_the_thread_assembles_ends_it(directory: Path) -> None:
    watched = Watched(directory)
    watched.seconds = 0.05
    with feeding(watched, last=1000 * STEPS):
        pass


def test_waiting_is_measured_where_data_are_late_and_nothing_where_they_are_ahead(directory: Path) -> None:
    slow = Watched(directory)
    slow.seconds = 0.5
    with feeding(slow, last=1) as steps:
        list(next(steps).micro_batches)
        # Three samples; the thread began a moment before.
        assert 0.1 < steps.waited < 60
    with feeding(slow, last=1) as steps:
        # Everything is ready when the thread is done.
        wait_until(lambda: "feed" not in {thread.name for thread in threading.enumerate()})
        list(next(steps).micro_batches)
        assert steps.waited < 0.5
