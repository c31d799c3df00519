"""What is said about the memory of sft is what torch allocates, in real training steps on the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from accelerate import init_empty_weights
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from finetune_api.architecture import from_config
from finetune_api.memory import Mode, leanest, memory
from finetune_trainer.methods.parametrization import Parametrization
from trainer.allocations import (
    LONGEST,
    MODES,
    SFT,
    allocating,
    config_of,
    divided,
    estimated,
    measured_peak,
    member_of,
    micro_batch,
    resident,
    whole,
)

# How far an estimate may be from what is measured.
TOLERANCE = 0.05
TOLERANCE_OF_LIBRARIES = 0.25
LEAST_FRAMEWORK = 400 * 2**20


def sft(config: Any) -> Parametrization:
    return Parametrization(whole(config))


@pytest.mark.parametrize(
    ("family", "shape", "tokens"),
    [
        ("llama", {}, 256),
        ("llama", {}, 2560),
        ("llama", {"num_key_value_heads": 8, "hidden_size": 512, "num_hidden_layers": 6}, 1024),
        ("llama", {"vocab_size": 100}, 2560),
        ("qwen2", {"tie_word_embeddings": True}, 256),
        ("qwen2", {"tie_word_embeddings": True}, 2560),
        ("qwen3", {}, 1024),
        ("gemma", {}, 1024),
        ("gemma3_text", {}, 1024),
        ("granite", {}, 1024),
        ("mistral", {}, 1024),
        ("phi3", {}, 1024),
        ("phi", {"num_key_value_heads": 8}, 1024),
        ("gpt2", {}, 1024),
    ],
)
def test_a_step_of_sft(family: str, shape: dict[str, Any], tokens: int) -> None:
    config = config_of(family, **shape)
    assert estimated(SFT, config, tokens) == pytest.approx(measured_peak(sft, config, tokens), rel=TOLERANCE)


def test_a_single_micro_batch_needs_the_least() -> None:
    config = config_of("llama")
    peak = measured_peak(sft, config, 1024, micro_batches=1)
    found = memory(SFT, from_config(config.to_dict()), leanest(SFT), tokens=1024, longest=LONGEST)
    assert found.low < peak + LEAST_FRAMEWORK < 1.02 * found.low
    assert peak < found.estimate - found.framework - found.saving


@pytest.fixture
def gang(size: int) -> Iterator[DeviceMesh]:
    with member_of(size) as mesh:
        yield mesh


@pytest.mark.parametrize(
    ("family", "shape", "tokens", "size", "mode"),
    [
        *(("llama", {"vocab_size": 500}, 1536, 1, mode) for mode in MODES if not mode.accumulate_locally),
        *(("llama", {"vocab_size": 4000, "num_hidden_layers": 8}, 256, 4, mode) for mode in MODES),
        *(("qwen2", {"vocab_size": 4000, "tie_word_embeddings": True}, 512, 4, mode) for mode in MODES),
        *(("gemma3_text", {"vocab_size": 1000}, 512, 4, mode) for mode in MODES),
        *(("gpt2", {"vocab_size": 500}, 512, 4, mode) for mode in MODES if not mode.accumulate_locally),
    ],
    ids=str,
)
def test_a_step_as_a_gpu_takes_it(
    gang: DeviceMesh, family: str, shape: dict[str, Any], tokens: int, size: int, mode: Mode
) -> None:
    config = config_of(family, attn_pdrop=0.0, **shape)
    peak = measured_peak(
        lambda config: Parametrization(divided(config, gang, mode)),
        config,
        tokens,
        locally=mode.accumulate_locally,
    )
    found = estimated(replace(SFT, gpus_per_node=size), config, tokens, mode=mode)
    assert found == pytest.approx(peak, rel=0.1)


def test_a_loss_that_is_kept_keeps_nothing_else() -> None:
    config = config_of("llama", vocab_size=50_000)
    batch = micro_batch(config, 256, 256)
    with allocating() as allocated:
        model = whole(config)
        loss = model(**batch)
        loss.backward()
    weights = sum(weight.nbytes for weight in model.parameters())
    assert allocated.totals[-1] == pytest.approx(2 * weights, rel=0.001)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2"])
def test_weights_are_those_that_accelerate_counts(family: str) -> None:
    """`accelerate estimate-memory` wants a model on the Hub; these are the functions that it counts with.

    It counts tied weights twice.
    """
    config = config_of(family, tie_word_embeddings=False)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    total, _ = calculate_maximum_sizes(model)
    usage = estimate_training_usage(total, "float32")
    found = memory(SFT, from_config(config.to_dict()), leanest(SFT), tokens=1024, longest=LONGEST)
    assert found.weights == pytest.approx(usage["model"], rel=0.01)
    assert found.optimizer == pytest.approx(usage["optimizer"], rel=0.01)


def test_the_libraries_alone_take_what_is_counted_for_them() -> None:
    unasked, peak = resident("""
import sys, finetune_trainer.train
print(int("peft" in sys.modules))
import peft
print(peak())
""")
    assert not unasked, "peft takes seconds to import, and is lora's alone"
    found = memory(SFT, from_config(config_of("llama").to_dict()), leanest(SFT), tokens=1024, longest=LONGEST)
    assert peak > LEAST_FRAMEWORK
    assert peak == pytest.approx(found.framework, rel=TOLERANCE_OF_LIBRARIES)
