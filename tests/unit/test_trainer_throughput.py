"""What a step has to compute, and what hardware can."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune_api.architecture import from_config
from finetune_trainer.throughput import peak_flops, step_flops, utilization

CONFIGS = Path(__file__).parent.parent / "configs"


def test_logits_count_only_where_loss_is_taken_and_attention_only_within_a_sample() -> None:
    architecture = from_config(json.loads((CONFIGS / "qwen2.5-0.5b.json").read_text()))
    one = step_flops(architecture, np.array([2000], np.int32), 500)
    halves = step_flops(architecture, np.array([1000, 1000], np.int32), 500)
    assert one - halves == 6 * 24 * 14 * 64 * (2000**2 - 2 * 1000**2)
    more = step_flops(architecture, np.array([2000], np.int32), 501)
    assert more - one == 6 * architecture.vocabulary * architecture.hidden_size


def test_lengths_of_a_large_step_do_not_overflow() -> None:
    architecture = from_config(json.loads((CONFIGS / "qwen2.5-0.5b.json").read_text()))
    lengths = np.full(4096, 131072, np.int32)
    assert step_flops(architecture, lengths, 0) > 6 * 24 * 14 * 64 * 4096 * 131072.0**2


@pytest.mark.parametrize(
    ("device", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM2e", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
    ],
)
def test_peaks_by_the_names_that_drivers_give(device: str, teraflops: float) -> None:
    assert peak_flops(device) == teraflops * 1e12


@pytest.mark.parametrize(
    "device",
    [
        "Tesla V100-SXM2-16GB",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "cpu",
    ],
)
def test_a_peak_that_is_not_known_is_not_guessed(device: str) -> None:
    assert peak_flops(device) is None


def test_utilization_is_of_all_gpus_together() -> None:
    assert utilization(8e12, seconds=2.0, gpus=4, peak=2e12) == 0.5
