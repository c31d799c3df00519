"""What the rule book says of a run by the losses of its steps."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advice import recipe
from finetune_api import guide
from finetune_api.guide.loss_curve import Plateau, StepLoss, plateau
from finetune_api.status import Plan

PASS = 20
SAMPLES = 8


def curve(
    level: Callable[[float], float],
    *,
    passes: int = 3,
    steps: int = PASS,
    rate: Callable[[float], float] = lambda _: 1e-5,
    noise: float = 0.0,
) -> list[StepLoss]:
    """Losses at a `level` after so many passes, over samples of which each is easier or harder than that by itself."""
    draw = random.Random(1)
    samples = [draw.gauss(1.0, noise) for _ in range(steps * SAMPLES)]
    made = []
    for number in range(passes):
        draw.shuffle(samples)
        for step in range(steps):
            batch = samples[step * SAMPLES : (step + 1) * SAMPLES]
            done = number + step / steps
            made.append(StepLoss(level(done) * sum(batch) / SAMPLES, rate(done / passes), SAMPLES))
    return made


def cosine(done: float) -> float:
    return 1e-5 * (1 + math.cos(math.pi * done)) / 2


def told(
    curve: list[StepLoss], *, learning_rate: float = 1e-5, of_epoch: int = PASS, **lora: object
) -> dict[str, str]:
    """What is said of a run with these losses, by the field that it is said of."""
    plan = Plan(learning_rate=learning_rate, num_epochs=3, world_size=1, steps_per_epoch=of_epoch)
    found = guide.advise_on_course(recipe("lora", lora=lora), plan, curve)
    return {finding.field: finding.message for finding in found}


HIGH_AND_FLAT = {
    "flat from the start": lambda done: 2.5,
    "fallen, then flat": lambda done: 2.6 + 1.4 * math.exp(-8 * done),
    "hardly falling": lambda done: 2.5 - 0.03 * done,
}
NOT_UNDERFITTING = {
    "falling": lambda done: 3.0 - 0.4 * done,
    "fallen to little, then flat": lambda done: 0.8 + 0.6 * math.exp(-8 * done),
    "little from the start": lambda done: 0.9,
    "fallen well, then flat": lambda done: 2.4 + 3.6 * math.exp(-8 * done),
    "rising": lambda done: 2.0 + 0.3 * done,
    "fallen, then rising": lambda done: 2.4 + 1.4 * math.exp(-8 * done) + 0.2 * done,
    "risen, then flat": lambda done: 3.0 - 0.8 * math.exp(-8 * done),
    "falling after a rest": lambda done: 2.5 if done < 2 else 2.5 - 0.8 * (done - 2),
}


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("level", HIGH_AND_FLAT.values(), ids=HIGH_AND_FLAT)
def test_a_loss_that_stays_high_is_found(level: Callable[[float], float], noise: float) -> None:
    found = plateau(curve(level, noise=noise), PASS)
    assert found is not None
    assert found.now == pytest.approx(level(2.5), rel=0.02)
    assert found.steps == PASS


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("level", NOT_UNDERFITTING.values(), ids=NOT_UNDERFITTING)
def test_a_loss_that_falls_or_is_low_enough_or_rises_is_left_alone(
    level: Callable[[float], float], noise: float
) -> None:
    assert plateau(curve(level, noise=noise), PASS) is None


@given(st.integers(0, 10_000), st.floats(0, 0.5), st.integers(1, 30))
def test_what_samples_differ_by_feigns_no_rest(seed: int, noise: float, batch: int) -> None:
    """However different samples are, and in whatever order each pass takes them: a tenth is more than they hide."""
    draw = random.Random(seed)
    losses = [max(0.5, draw.gauss(2.5, 2.5 * noise)) for _ in range(12 * batch)]

    def of_pass(level: float) -> list[StepLoss]:
        draw.shuffle(losses)
        batches = [losses[first : first + batch] for first in range(0, len(losses), batch)]
        return [StepLoss(level * sum(each) / batch, 1e-5, batch) for each in batches]

    assert plateau([*of_pass(1), *of_pass(0.9)], 12) is None


def test_two_whole_passes_must_be_over() -> None:
    flat = curve(HIGH_AND_FLAT["flat from the start"])
    found = [plateau(flat[:steps], PASS) is not None for steps in range(3 * PASS + 1)]
    assert found == [steps >= 2 * PASS for steps in range(3 * PASS + 1)]


def test_passes_of_few_steps_are_taken_together() -> None:
    flat = curve(HIGH_AND_FLAT["flat from the start"], passes=12, steps=4)
    assert plateau(flat[:23], 4) is None
    assert plateau(flat[:24], 4) == Plateau(12, 2.5, 2.5, 2.5)


def test_the_end_of_a_run_whose_rate_goes_to_zero_is_no_rest() -> None:
    """It learns as long as it has a rate to learn at."""
    learnt = curve(lambda done: 3.0 - 0.3 * min(done, 6), passes=10, rate=cosine)
    assert plateau(learnt, PASS) is None
    # Nor does it hide one that came to rest before.
    rested = curve(lambda done: 2.5 + 0.7 * math.exp(-3 * done), passes=10, rate=cosine)
    assert plateau(rested, PASS) is not None


def test_a_loss_that_falls_as_the_rate_does_is_not_at_rest() -> None:
    """A rate that was too high, not too low, kept it up."""
    settled = curve(lambda done: 2.5 - 0.3 * max(0, done - 7), passes=10, rate=cosine)
    assert plateau(settled[: 7 * PASS], PASS) is not None
    assert plateau(settled, PASS) is None


def test_an_easy_first_batch_is_not_where_the_run_began() -> None:
    flat = curve(HIGH_AND_FLAT["flat from the start"])
    found = plateau([StepLoss(2.0, 1e-5, SAMPLES), *flat[1:]], PASS)
    assert found is not None
    assert found.start == pytest.approx(2.4)


def test_a_pass_in_which_the_rate_still_warms_up_is_not_judged() -> None:
    flat = HIGH_AND_FLAT["flat from the start"]
    warming = curve(flat, passes=4, rate=lambda done: 1e-5 * min(1.0, 2 * done))
    assert plateau(warming[: 2 * PASS], PASS) is None
    assert plateau(warming[: 3 * PASS], PASS) is not None


def test_a_short_last_batch_counts_by_its_samples() -> None:
    steps = [StepLoss(2.5, 1e-5, 32) for _ in range(PASS - 1)]
    hard = [*steps, StepLoss(40.0, 1e-5, 1), *steps, StepLoss(2.5, 1e-5, 1)]
    found = plateau(hard, PASS)
    assert found is not None
    assert found.before == pytest.approx(2.5 + 37.5 / (19 * 32 + 1))


FLAT = curve(HIGH_AND_FLAT["flat from the start"])
RANK, RATE = "spec.lora.r", "spec.hyperparameters.learningRate"


def test_the_advice_tells_the_figures_and_what_to_change() -> None:
    assert told(FLAT) == {
        RANK: "the model underfits: its loss was 2.50 at the start, 2.50 over 20 steps of whole passes over the data, "
        "and is 2.50 over as many later ones. In another run, set 32 or 64; or raise learningRate from "
        "1e-5 towards 1e-4"
    }


def test_only_what_is_left_to_change_is_advised() -> None:
    assert "set 32 or 64" in told(FLAT, r=31)[RANK]
    assert "set 64;" in told(FLAT, r=32)[RANK]
    assert "learningRate" not in told(FLAT, learning_rate=1e-4)[RANK]
    assert "targetModules" in told(FLAT, targetModules=["attention"])[RANK]
    assert "targetModules" not in told(FLAT, targetModules=["allLinear"])[RANK]
    assert list(told(FLAT, r=64)) == [RATE]
    assert "from 1e-5 towards 1e-4" in told(FLAT, r=64)[RATE]
    assert told(FLAT, r=64, learning_rate=1e-4) == {}


def test_only_adapters_are_spoken_of_and_only_once_they_train() -> None:
    plan = Plan(learning_rate=1e-6, num_epochs=3, world_size=1, steps_per_epoch=PASS)
    assert guide.advise_on_course(recipe("sft"), plan, FLAT) == []
    assert told([]) == {}
