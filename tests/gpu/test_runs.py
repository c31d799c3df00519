"""Whole runs on GPUs, compared with the same runs on the CPU (`make gpu-check`)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.methods import Lora, Osft
from tiny import save_chat_data, save_tiny_model
from trainer import gangs
from trainer.plain import BATCH, SAMPLES, number

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

METHODS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"},
    "osft": {"method": "osft", "osft": Osft()},
    "lora": {"method": "lora"},
    "dora": {"method": "lora", "lora": Lora(use_dora=True)},
    "lora-8-bit": {"method": "lora", "lora": Lora(load_in_8bit=True)},
    "lora-4-bit": {"method": "lora", "lora": Lora(load_in_4bit=True)},
}
# The GPU computes in bf16, the CPU in fp32.
TOLERANCE = 0.03


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("gpu")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


def losses(base: Path, name: str, gpus: int, fields: dict[str, Any]) -> list[float]:
    """The losses of a run on one node with so many GPUs; 0: on its CPU."""
    hyperparameters: dict[str, Any] = {"learningRate": 5e-3, "effectiveBatchSize": BATCH, "numEpochs": 2}
    run = gangs.config(base, name=name, **hyperparameters).model_copy(update={"gpus_per_node": gpus} | fields)
    [end] = gangs.run(run)
    assert end.exit_code == 0, end.output
    return [number(loss) for loss in gangs.losses(base / name)]


@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_trains_as_the_cpu_does(base: Path, method: str) -> None:
    on_cpu, on_gpu = (losses(base, f"{method}-{gpus}", gpus, METHODS[method]) for gpus in (0, 1))
    assert on_gpu == pytest.approx(on_cpu, rel=TOLERANCE)
    assert on_gpu[-1] < on_gpu[0] - 0.3


@two_gpus
@pytest.mark.parametrize("method", METHODS)
def test_two_gpus_train_as_one_does(base: Path, method: str) -> None:
    one, two = (losses(base, f"{method}-of-{gpus}", gpus, METHODS[method]) for gpus in (1, 2))
    assert two == pytest.approx(one, rel=TOLERANCE)


@two_gpus
@pytest.mark.parametrize("bits", [{}, {"load_in_4bit": True}], ids=str)
def test_a_model_that_is_split_trains_as_a_whole_one_does(base: Path, bits: dict[str, Any]) -> None:
    name = f"split-{len(bits)}"
    split = {"method": "lora", "lora": Lora(enable_model_splitting=True, **bits)}
    whole = {"method": "lora", "lora": Lora(**bits)}
    assert losses(base, name, 2, split) == pytest.approx(losses(base, f"un{name}", 1, whole), rel=TOLERANCE)
