"""Models in training, made by every method without a run, and data to judge them by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from finetune_api.methods import Lora
from finetune_api.scores import SetScore
from finetune_trainer.adapters import base as frozen
from finetune_trainer.adapters.adapter import adapt
from finetune_trainer.adapters.identity import Named
from finetune_trainer.adapters.quantization import quantization
from finetune_trainer.distributed import Gang
from finetune_trainer.evaluating.evaluator import EvaluatedSet, Evaluator
from finetune_trainer.methods import osft, sft
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel, load_config
from finetune_trainer.prepare.arrow import Part, Samples, SampleWriter
from finetune_trainer.prepare.encode import MASKED, Encoded
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.targets import find_targets
from tiny import CONTEXT

# As the spec has them, and weights that are held in 4 bits.
METHODS = ("sft", "osft", "lora", "lora-4bit")
VOCABULARY = 259


def save_samples(directory: Path, lengths: list[int], *, with_loss: bool = True, seed: int = 0) -> Path:
    """Random samples, with loss on about half of their tokens or on none."""
    draw = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    with SampleWriter(directory, directory.name) as writer:
        samples = []
        for number, length in enumerate(lengths):
            ids = draw.integers(VOCABULARY, size=length, dtype=np.int32)
            labelled = draw.random(length) < 0.5 * with_loss
            samples.append((number, Encoded(ids, np.where(labelled, ids, MASKED).astype(np.int32))))
        writer.write(Part.of(samples))
    return directory


def parametrized(gang: Gang, base: Path, method: str, *, dropout: float = 0.5) -> Parametrization:
    """The model in a directory as a method trains it. Activations are recomputed, adapters have learnt something."""
    config = load_config(base)
    if method in ("sft", "osft"):
        model = sft.build(base, config, gang, activation_checkpointing=True)
        if method == "sft":
            return Parametrization(model)
        decomposer = Decomposer(base.parent / "decompositions", f"rank-{gang.rank}", lambda: None)
        return osft.decompose(model, find_targets(model.hf, [], 0.5), decomposer, gang)
    lora = Lora(dropout=dropout, load_in_4bit=method == "lora-4bit")
    hf = frozen.load(base, {"": gang.device}, quantization(lora, gang.device, config)).train()
    hf.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(1)
    adapted = adapt(hf, lora, r=4, alpha=8, base=Named("tiny"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return LowRank(adapted, world_size=gang.world_size)


def evaluator(
    gang: Gang, model: TrainableModel, base: Path, sets: list[EvaluatedSet], **given: Any
) -> Evaluator:
    """Of sets, by a gang that nobody asks to stop."""
    usual: dict[str, Any] = {"tick": lambda: None, "asked_to_stop": lambda: False, "context_length": CONTEXT}
    return Evaluator(gang, model, sets, directory=base, **usual | given)


def plain_sets(directories: list[Path]) -> list[EvaluatedSet]:
    """Data on which nothing is generated."""
    return [EvaluatedSet(each.name, f"spec of {each.name}", Samples(each)) for each in directories]


def scores(
    gang: Gang, base: Path, directories: list[Path], method: str, budgets: list[int]
) -> list[list[SetScore]]:
    """Part of a gang: what every set gets, with one token budget after the other."""
    judge = evaluator(gang, parametrized(gang, base, method).model, base, plain_sets(directories))
    found = [judge.evaluate(budget) for budget in budgets]
    return [of_budget for of_budget in found if of_budget is not None]


@dataclass
class Condition:
    """All that an evaluation must leave as it is."""

    modes: dict[str, bool]
    random_numbers: Tensor
    weights: dict[str, Tensor] = field(repr=False)
    gathered: list[str]
    """Weights that FSDP has gathered."""
    gradients: list[str]

    @classmethod
    def of(cls, model: TrainableModel) -> "Condition":
        return cls(
            {name: module.training for name, module in model.named_modules()},
            torch.get_rng_state(),
            {name: _local(weight).clone() for name, weight in model.named_parameters()},
            [
                name
                for name, weight in model.named_parameters()
                if isinstance(model, FSDPModule) and not isinstance(weight, DTensor)
            ],
            [name for name, weight in model.named_parameters() if weight.grad is not None],
        )

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Condition)
        return (
            (self.modes, self.gathered, self.gradients) == (other.modes, other.gathered, other.gradients)
            and torch.equal(self.random_numbers, other.random_numbers)
            and self.weights.keys() == other.weights.keys()
            and all(torch.equal(weight, other.weights[name]) for name, weight in self.weights.items())
        )


def _local(weight: Tensor) -> Tensor:
    found = weight.to_local() if isinstance(weight, DTensor) else weight
    return found.detach()


def asked_at(count: int) -> Callable[[], bool]:
    """Somebody asks to stop, the so-manieth time that it is looked for."""
    asked = iter(range(count))
    return lambda: next(asked, None) is None
