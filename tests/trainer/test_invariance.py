"""A run's result follows from model, data and hyperparameters alone, and not from how it is carried out.

Every run is compared with the plain mathematics: each sample alone, by the model's own attention and torch's plain
AdamW, one process, the gradient of a step's whole batch. So runs on one, two and four processes, with any token budget
and in any mode, agree with it and with one another, losses and weights.
"""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tiny import save_chat_data, save_tiny_model
from trainer import forked
from trainer.gangs import config, metrics
from trainer.plain import SAMPLES, TOLERANCE, Result, by_hand, check, number, trained

CLIPPED: dict[str, Any] = {"maxGradNorm": 0.3}
SMALL: dict[str, Any] = {"maxTokensPerGpu": 130}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("invariance")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


@pytest.fixture(scope="module")
def plain(base: Path) -> Result:
    """What the mathematics say."""
    return by_hand(base)


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
