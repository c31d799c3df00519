"""Whole models that train the same subspaces, each in the way of its system; all else is the same for all.

Attention, loss and optimizer are finetune-trainer's, so that what differs is osft alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mini_trainer import osft_utils
from peft import OSFConfig, inject_adapter_in_model
from transformers import LlamaForCausalLM, PreTrainedModel

from benchmarks.osft.trained import Trained
from benchmarks.random_samples import random_samples
from benchmarks.trainer.workload import Shape
from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.inputs import Inputs
from finetune_trainer.methods.osft import decompose
from finetune_trainer.model import TrainableModel
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.targets import find_targets

# SmolLM2-135M with fewer layers, and a vocabulary that has the same share of the work.
SHAPE = Shape(width=576, layers=4, heads=9, key_value_heads=3, feed_forward=1536, vocabulary=6400)
# More of the same, for what takes less time.
DECOMPOSED = replace(SHAPE, layers=12)
# A step of the optimizer: tokens of a sample, samples of a micro-batch, micro-batches.
SAMPLE, SAMPLES, MICRO_BATCHES = 256, 8, 4
TOKENS = SAMPLE * SAMPLES * MICRO_BATCHES

Batch = Sequence[Inputs]


@dataclass(frozen=True)
class System:
    """A model in training."""

    model: TrainableModel
    trained: Trained

    def step(self, batch: Batch) -> float:
        """A step of the optimizer; returns the loss."""
        loss_tokens = sum(len(inputs["targets"]) for inputs in batch)
        total = 0.0
        for inputs in batch:
            loss = self.model(**inputs)
            (loss / loss_tokens).backward()
            total += float(loss.detach())
        self.trained.update()
        return total / loss_tokens


def batch(number: int) -> Batch:
    """Random tokens, the same for every system."""
    draw = torch.Generator().manual_seed(number)
    return [random_samples(draw, SAMPLES, SAMPLE, SHAPE.vocabulary) for _ in range(MICRO_BATCHES)]


def sft(base: Path, ratio: float, scratch: Path) -> System:
    """Every weight is trained; there is no ratio."""
    model = TrainableModel(_load(base))
    return System(model, Trained(list(model.parameters())))


def ours(base: Path, ratio: float, scratch: Path) -> System:
    """finetune-trainer's osft, on one process."""
    model = TrainableModel(_load(base))
    decomposer = Decomposer(scratch, "benchmark", lambda: None)
    made = decompose(model, find_targets(model.hf, (), ratio), decomposer)

    def after() -> None:
        made.constrain()
        made.push_forward()

    return System(model, Trained(list(made.parameters.values()), made.pull_back, after))


def mini_trainer(base: Path, ratio: float, scratch: Path) -> System:
    """Its model class, with its projections."""
    hf = osft_utils.create_osft_model_class(LlamaForCausalLM).from_pretrained(
        str(base), rank_ratio=1 - ratio, attn_implementation=PER_SAMPLE, dtype=torch.float32
    )
    hf.reinitialize_osft(decompose_existing_weights=True)
    model = TrainableModel(hf.train())
    return System(model, Trained(_trainable(model), hf.project_gradients, hf.project_parameters))


def peft_osf(base: Path, ratio: float, scratch: Path) -> System:
    """Embeddings and norms are frozen; gradients are projected in the backward pass, values never."""
    hf = _load(base)
    layers = [target.name.removesuffix(".weight") for target in find_targets(hf, (), ratio)]
    inject_adapter_in_model(OSFConfig(effective_rank=1 - ratio, target_modules=layers), hf)
    model = TrainableModel(hf)
    return System(model, Trained(_trainable(model)))


SYSTEMS: dict[str, Callable[[Path, float, Path], System]] = {
    "sft": sft,
    "ours": ours,
    "mini_trainer": mini_trainer,
    "peft OSF": peft_osf,
}


def _load(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(
        base, attn_implementation=PER_SAMPLE, dtype=torch.float32
    )
    model.train()
    return model


def _trainable(model: TrainableModel) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]
