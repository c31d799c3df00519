"""Training by the plain mathematics, to compare runs with.

Each sample alone, by the model's own attention and torch's plain AdamW, one process, the gradient of a step's whole
batch.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers import AutoModelForCausalLM

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.runconfig import RunConfig
from finetune_trainer.batches import Schedule
from trainer import forked
from trainer.gangs import config, metrics

# The last batch of an epoch is a single sample: in a gang, the other processes have none.
SAMPLES, BATCH, EPOCHS = 33, 8, 2
STEPS = 10
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-3,
    "effectiveBatchSize": BATCH,
    "numEpochs": EPOCHS,
    "maxSeqLen": 128,
    "maxTokensPerGpu": 4096,
    "weightDecay": 0.1,
    "warmupSteps": 3,
    # Large enough for rounding not to decide what a weight without a gradient worth mentioning does.
    "eps": 1e-5,
}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    losses: list[float]
    grad_norms: list[float]
    rates: list[float]
    weights: dict[str, Tensor]


def trained(
    base: Path,
    name: str,
    nodes: int = 1,
    *,
    planned: dict[str, Any] | None = None,
    method: dict[str, Any] | None = None,
    **stated: Any,
) -> Result:
    """What a real run leaves, a model or an adapter; `planned` are fields of its plan, `method` of its RunConfig."""
    run = config(base, name=name, nodes=nodes, every_epoch=False, **(HYPERPARAMETERS | stated))
    forked.train(run.model_copy(update=method or {}), **(planned or {}))
    steps = metrics(base / name)
    [file] = (base / name / "output").glob("*.safetensors")
    return Result(
        [number(step.loss) for step in steps],
        [number(step.grad_norm) for step in steps],
        [number(step.learning_rate) for step in steps],
        load_file(file),
    )


def number(value: float | None) -> float:
    """A measurement that there is."""
    assert value is not None
    return value


class Weights(Protocol):
    """The weights of a model, as a method trains them."""

    parameters: list[nn.Parameter]
    """What AdamW changes."""

    def values(self) -> dict[str, Tensor]:
        """The model's weights by their names, made of the parameters."""

    def project_gradients(self) -> None:
        """Before clipping."""

    def project_values(self) -> None:
        """After AdamW."""


class Dense:
    """All of them are trained as they are."""

    def __init__(self, model: nn.Module) -> None:
        self._named = dict(model.named_parameters())
        self.parameters = list(self._named.values())

    def values(self) -> dict[str, Tensor]:
        """Themselves."""
        return dict(self._named)

    def project_gradients(self) -> None:
        """Nothing is frozen."""

    def project_values(self) -> None:
        """Nothing is frozen."""


def by_hand(base: Path, weights_of: Callable[[nn.Module], Weights] = Dense, **stated: Any) -> Result:
    """What the mathematics say of a run with these hyperparameters."""
    run = config(base, name="by-hand", **(HYPERPARAMETERS | stated))
    settings, samples = run.hyperparameters, prepared(run)
    model = AutoModelForCausalLM.from_pretrained(
        base / "model", dtype=torch.float32, attn_implementation="eager"
    )
    weights = weights_of(model)
    assert settings.learning_rate is not None
    optimizer = torch.optim.AdamW(
        weights.parameters,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        foreach=False,
    )
    schedule, result = Schedule(len(samples), BATCH, settings.seed), Result([], [], [], {})
    for step in range(STEPS):
        rate = settings.learning_rate * cosine(step, settings)
        optimizer.param_groups[0]["lr"] = rate
        batch = [samples[int(index)] for index in schedule.batch(step).samples]
        loss_tokens = sum(int((labels[1:] != -100).sum()) for _, labels in batch)
        values = weights.values()
        loss = torch.stack([summed_loss(model, values, *sample) for sample in batch]).sum() / loss_tokens
        optimizer.zero_grad()
        loss.backward()
        weights.project_gradients()
        gradients = [weight.grad for weight in weights.parameters if weight.grad is not None]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        for gradient in gradients:
            gradient *= min(1.0, settings.max_grad_norm / norm)
        optimizer.step()
        weights.project_values()
        result.losses.append(loss.item())
        result.grad_norms.append(norm)
        result.rates.append(rate)
    result.weights.update({name: weight.detach() for name, weight in weights.values().items()})
    return result


def prepared(run: RunConfig) -> list[tuple[Tensor, Tensor]]:
    """Token ids and labels of every sample, as any run leaves them beside its directory."""
    base = Path(run.locations.storage).parent
    # Apart from runs of the same module that are about other data.
    apart = base / "apart"
    if not apart.exists():
        shutil.copytree(base / "model", apart / "model")
        shutil.copy(base / "train.jsonl", apart)
        trained(apart, "first", maxSteps=1)
    [directory] = Path(config(apart, name="first").locations.prepared).iterdir()
    return [
        (torch.tensor(row["input_ids"]), torch.tensor(row["labels"]))
        for row in load_from_disk(str(directory))
    ]


def summed_loss(model: nn.Module, weights: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of a sample, summed over its tokens."""
    logits = functional_call(model, weights, (ids[None],), {"use_cache": False}).logits[0]
    return functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)


def cosine(step: int, settings: Hyperparameters) -> float:
    """The learning rate, as a share of its peak."""
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    done = (step - settings.warmup_steps) / (STEPS - settings.warmup_steps)
    return (1 + math.cos(math.pi * done)) / 2


def check(found: Result, expected: Result) -> None:
    """Two ways to the same result."""
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE, rel=0)
    assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-4)
    assert found.rates == pytest.approx(expected.rates)
    torch.testing.assert_close(found.weights, expected.weights, atol=TOLERANCE, rtol=0)
