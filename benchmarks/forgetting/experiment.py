"""The experiment with one seed: teach the old facts, then fine-tune on the new ones, by each method."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.forgetting.comparison import Curve, Point, Run
from benchmarks.forgetting.facts import Knowledge, knowledge
from benchmarks.forgetting.methods import METHODS
from benchmarks.forgetting.model import examine, new_model, train
from finetune_api.hyperparameters import Hyperparameters
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel

TEACHING_STEPS = 400
TEACHING_BATCH = 64
TEACHING_RATE = 2e-3
# Strong weight decay leaves the strongest directions to what is known, as long training does with large models.
TEACHING = Hyperparameters(lr_scheduler="cosine", warmup_steps=50, weight_decay=1.0)
RATES = (1e-4, 3e-4, 1e-3)
STEPS = 160
BATCH = 32
# A constant rate: each moment of a curve is a run that could have ended there. All else as the trainer does it.
FINE_TUNING = Hyperparameters(lr_scheduler="constant")
# Steps from one examination to the next.
_EVERY = 5


@dataclass(frozen=True)
class Taught:
    """A model that knows the old facts, and the new ones that it is to learn."""

    seed: int
    model: TrainableModel
    old: Knowledge
    new: Knowledge


def teach(seed: int) -> Taught:
    """Teach a new model the old facts, all its weights from random ones."""
    old, new = knowledge(seed)
    model = new_model(seed)
    random = np.random.default_rng([seed, 1])
    train(
        Parametrization(model),
        TEACHING,
        TEACHING_RATE,
        TEACHING_STEPS,
        lambda: old.told(random, TEACHING_BATCH),
        lambda done: None,
    )
    known = examine(model, old.questions()).accuracy
    if known < 0.95:
        raise RuntimeError(f"seed {seed}: the model was to know the old facts, and knows {known:.0%} of them")
    return Taught(seed, model, old, new)


def fine_tune(taught: Taught, method: str, rate: float, decompositions: Path) -> Curve:
    """Fine-tune a copy; the batches, and their order, are the same for every method and rate."""
    # LoRA's adapters begin at random.
    torch.manual_seed(taught.seed)
    trained = METHODS[method].parametrize(copy.deepcopy(taught.model), decompositions)
    random = np.random.default_rng([taught.seed, 2])
    old, new = taught.old.questions(), taught.new.questions()
    curve: list[Point] = []

    def measure(done: int) -> None:
        if done % _EVERY == 0:
            known = [examine(trained.model, questions).accuracy for questions in (old, new)]
            curve.append(Point(done, *known))

    train(trained, FINE_TUNING, rate, STEPS, lambda: taught.new.told(random, BATCH), measure)
    return curve


def fine_tuned(seed: int) -> dict[Run, Curve]:
    """The curves of one seed, of every method at every rate. Made in a process of its own."""
    # As many processes as there are CPUs; and sums come in the same order everywhere.
    torch.set_num_threads(1)
    taught = teach(seed)
    with tempfile.TemporaryDirectory(prefix="bench-forgetting-") as decompositions:
        return {
            (method, rate): fine_tune(taught, method, rate, Path(decompositions))
            for method in METHODS
            for rate in RATES
        }
