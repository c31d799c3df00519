"""A run's result follows from model, data and hyperparameters alone, and not from how it is carried out.

Every run is compared with the plain mathematics: each sample alone, by the model's own attention and torch's plain
AdamW, one process, the gradient of a step's whole batch. So runs on one, two and four processes, with any token budget
and in any mode, agree with it and with one another, losses and weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.runconfig import RunConfig
from finetune_trainer.batches import Schedule
from tiny import save_chat_data, save_tiny_model
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
CLIPPED: dict[str, Any] = {"maxGradNorm": 0.3}
SMALL: dict[str, Any] = {"maxTokensPerGpu": 130}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More of them wait for one another when the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    losses: list[float]
    grad_norms: list[float]
    rates: list[float]
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("invariance")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


def trained(
    base: Path, name: str, nodes: int = 1, *, planned: dict[str, Any] | None = None, **stated: Any
) -> Result:
    run = config(base, name=name, nodes=nodes, every_epoch=False, **(HYPERPARAMETERS | stated))
    forked.train(run, **(planned or {}))
    steps = metrics(base / name)
    return Result(
        [number(step.loss) for step in steps],
        [number(step.grad_norm) for step in steps],
        [number(step.learning_rate) for step in steps],
        load_file(base / name / "output" / "model.safetensors"),
    )


def number(value: float | None) -> float:
    assert value is not None
    return value


@pytest.fixture(scope="module")
def plain(base: Path) -> Result:
    """What the mathematics say."""
    return by_hand(base)


def by_hand(base: Path, **stated: Any) -> Result:
    run = config(base, name="by-hand", **(HYPERPARAMETERS | stated))
    settings, samples = run.hyperparameters, prepared(run)
    model = AutoModelForCausalLM.from_pretrained(
        base / "model", dtype=torch.float32, attn_implementation="eager"
    )
    assert settings.learning_rate is not None
    optimizer = torch.optim.AdamW(
        model.parameters(),
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
        loss = torch.stack([summed_loss(model, *sample) for sample in batch]).sum() / loss_tokens
        optimizer.zero_grad()
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        for gradient in gradients:
            gradient *= min(1.0, settings.max_grad_norm / norm)
        optimizer.step()
        result.losses.append(loss.item())
        result.grad_norms.append(norm)
        result.rates.append(rate)
    result.weights.update({name: weight.detach() for name, weight in model.named_parameters()})
    return result


def prepared(run: RunConfig) -> list[tuple[Tensor, Tensor]]:
    """Token ids and labels of every sample, as any run leaves them beside its directory."""
    if not Path(run.locations.prepared).exists():
        trained(Path(run.locations.storage).parent, "first", maxSteps=1)
    [directory] = Path(run.locations.prepared).iterdir()
    return [
        (torch.tensor(row["input_ids"]), torch.tensor(row["labels"]))
        for row in load_from_disk(str(directory))
    ]


def summed_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    logits = model(ids[None], use_cache=False).logits[0]
    return functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)


def cosine(step: int, settings: Hyperparameters) -> float:
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    done = (step - settings.warmup_steps) / (STEPS - settings.warmup_steps)
    return (1 + math.cos(math.pi * done)) / 2


def check(found: Result, expected: Result) -> None:
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE, rel=0)
    assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-4)
    assert found.rates == pytest.approx(expected.rates)
    torch.testing.assert_close(found.weights, expected.weights, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_any_number_of_processes(base: Path, plain: Result, nodes: int) -> None:
    check(trained(base, f"on-{nodes}", nodes), plain)


@pytest.mark.parametrize("nodes", [1, 2])
def test_any_token_budget(base: Path, plain: Result, nodes: int) -> None:
    """Several micro-batches of each process in a step: their gradients add up to those of one big batch."""
    check(trained(base, f"small-on-{nodes}", nodes, **SMALL), plain)
    assert min(step.micro_batches or 0 for step in metrics(base / f"small-on-{nodes}")[:4]) > 1


@pytest.mark.parametrize(
    "planned",
    [
        {"accumulate_locally": False},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "accumulate_locally": False},
    ],
    ids=str,
)
def test_any_mode(base: Path, plain: Result, planned: dict[str, Any]) -> None:
    name = "-".join(planned).replace("_", "-")
    check(trained(base, name, 2, planned=planned, **SMALL), plain)


@pytest.mark.parametrize("nodes", [1, 2])
def test_clipping_is_by_the_norm_of_the_whole_gradient(base: Path, plain: Result, nodes: int) -> None:
    expected = by_hand(base, **CLIPPED)
    assert min(expected.grad_norms) > 1.5 * CLIPPED["maxGradNorm"]
    check(trained(base, f"clipped-on-{nodes}", nodes, **CLIPPED, **SMALL), expected)
    # It bites.
    differences = [(expected.weights[name] - weight).abs().max() for name, weight in plain.weights.items()]
    assert max(differences) > 20 * TOLERANCE


def test_a_step_with_nothing_to_learn_from(base: Path) -> None:
    """Seventeen tokens in blocks of eight: nothing predicts the last block's only one. None is divided by none."""
    (base / "documents.jsonl").write_text('{"document": "sixteen letters."}\n')
    run = config(
        base,
        name="documents",
        data="documents.jsonl",
        every_epoch=False,
        pretraining={"blockSize": 8},
        effectiveBatchSize=1,
        numEpochs=1,
        learningRate=1e-3,
    )
    forked.train(run)
    losses = [number(step.loss) for step in metrics(base / "documents")]
    assert losses.count(0) == 1
    assert len(losses) == 3
    assert all(
        weight.isfinite().all() for weight in load_file(base / "documents/output/model.safetensors").values()
    )
