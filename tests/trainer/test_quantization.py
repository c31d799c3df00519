"""lora beside weights in 4 and 8 bits: runs of real processes on the CPU, where bitsandbytes computes them too."""

import logging
import re
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_api.architecture import from_config
from finetune_api.memory.adapters import base_bytes
from finetune_api.methods import Lora
from finetune_api.runconfig import RunConfig
from finetune_trainer.adapters import base as frozen
from finetune_trainer.adapters import quantization as quantizing
from finetune_trainer.adapters.quantization import check_quantization, quantization
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.noise import leave_out_noise
from tiny import save_chat_data, save_tiny_model
from trainer import forked, gangs
from trainer.allocations import SFT
from trainer.faults import Fault, Moment
from trainer.states import alone
from trainer.survival import Course
from trainer.test_architecture import FAMILIES, config_of

CPU = torch.device("cpu")
BITS = {4: Lora(load_in_4bit=True), 8: Lora(load_in_8bit=True)}
# What a 4-bit layer has besides: tables of 16 and 256 numbers, and an offset.
TABLES = 4 * (16 + 256 + 1)
# Sizes of a model of any family, as each spells them.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), 96),
    **dict.fromkeys(("num_attention_heads", "n_head"), 4),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 2),
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 8,
    "vocab_size": 100,
    "layer_types": None,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("quantization")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=24)
    return base


def run(base: Path, name: str, lora: Lora, nodes: int = 1) -> RunConfig:
    hyperparameters: dict[str, Any] = {
        "learningRate": 1e-2,
        "effectiveBatchSize": 4,
        "numEpochs": 4,
        "maxTokensPerGpu": 128,
    }
    made = gangs.config(base, name=name, nodes=nodes, every_epoch=False, maxSeqLen=128, **hyperparameters)
    return made.model_copy(update={"method": "lora", "lora": lora})


@pytest.mark.parametrize("bits", BITS)
def test_a_run_learns_and_its_log_tells_of_nothing_else(base: Path, bits: int) -> None:
    [end] = gangs.run(run(base, f"learns-{bits}", BITS[bits]))
    assert end.exit_code == 0, end.output
    losses = [loss for loss in gangs.losses(base / f"learns-{bits}") if loss is not None]
    assert losses[-1] < 0.8 * losses[0]
    ours = re.compile(r"\d{4}-\d\d-\d\d \S+ rank 0 INFO |finetune-trainer: ")
    assert [line for line in end.output.splitlines() if not ours.match(line)] == []


@pytest.mark.parametrize("bits", BITS)
# GPT-Neo has an attention of its own, and is refused.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt_neo"])
def test_the_linear_layers_of_the_blocks_are_quantised_and_what_is_held_is_what_is_planned(
    family: str, bits: int, tmp_path: Path
) -> None:
    fields = {name: value for name, value in SMALL.items() if value is not None}
    stated = {name: value for name, value in config_of(FAMILIES[family]).items() if name not in SMALL}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**stated, **fields)).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    hf = frozen.load(tmp_path, {"": CPU}, quantization(BITS[bits], CPU, config))
    shapes = from_config(config.to_dict())
    layers = {f"{shapes.blocks}.{n}.{linear.name}" for linear in shapes.linears for n in range(linear.count)}
    narrow = {name for name, weight in hf.named_parameters() if weight.dtype != torch.float32}
    assert {name.removesuffix(".weight") for name in narrow} == layers
    planned = base_bytes(replace(SFT, method="lora", lora=BITS[bits]), shapes)
    tables, rounding = (TABLES * len(layers), 8 * len(layers)) if bits == 4 else (0, 0)
    assert held(hf) == pytest.approx(planned + tables, abs=rounding)


def held(hf: PreTrainedModel) -> int:
    """Bytes of a model's weights and of what it takes to read them; each once, whoever else refers to them."""
    tensors: list[Tensor | None] = [weight.data for weight in hf.parameters()]
    for weight in hf.parameters():
        tensors.append(getattr(weight, "SCB", None))
        if state := getattr(weight, "quant_state", None):
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    storages = {
        each.untyped_storage().data_ptr(): each.numel() * each.itemsize
        for each in tensors
        if each is not None
    }
    return sum(storages.values())


@pytest.mark.parametrize("lora", [*BITS.values(), Lora(load_in_8bit=True, use_dora=True)])
def test_it_makes_no_difference_how_often_and_with_what_in_memory_it_is_computed(
    base: Path, lora: Lora
) -> None:
    name = ("four" if lora.load_in_4bit else "eight") + ("-dora" if lora.use_dora else "")
    kept, again, recomputed = (run(base, f"{how}-{name}", lora) for how in ("kept", "again", "recomputed"))
    forked.train(kept, activation_checkpointing=False)
    forked.train(again, activation_checkpointing=False)
    forked.train(recomputed, activation_checkpointing=True)
    first, second, third = (gangs.losses(base / each.name) for each in (kept, again, recomputed))
    assert first == second
    assert third == pytest.approx(first, abs=1e-5)
    weights = [(base / each.name / "output/adapter_model.safetensors").read_bytes() for each in (kept, again)]
    assert weights[0] == weights[1]


@dataclass
class Quantised(Course):
    """A run of lora in so many bits."""

    bits: int = 4

    def config(self, world_size: int) -> RunConfig:
        return super().config(world_size).model_copy(update={"lora": BITS[self.bits]})


@pytest.mark.parametrize("bits", BITS)
def test_a_run_that_is_stopped_ends_as_one_that_is_not(survivors: Path, bits: int) -> None:
    whole, parts = (Quantised(survivors, method="lora", bits=bits) for _ in range(2))
    fault = Fault(parts.storage, Moment.STEP, nth=5, number=signal.SIGTERM)
    assert parts.attempt(1, fault) == [143]
    assert parts.finish() == whole.finish()


@dataclass(frozen=True)
class Broken:
    """One process has a bitsandbytes whose native library cannot be loaded."""

    rank: int

    def __call__(self, rank: int) -> None:
        if rank == self.rank:
            from bitsandbytes import cextension

            cextension.lib = cextension.ErrorHandlerMockBNBNativeLibrary("libcudart.so.13: cannot open")


def test_one_process_that_cannot_ends_all_of_them_with_its_reason(base: Path) -> None:
    with forked.running(run(base, "broken", BITS[4], nodes=2), beforehand=Broken(rank=1)) as gang:
        assert gang.wait() == [78, 78], gang.output()
        reasons = {cause["message"] for cause in gang.causes().values()}
    assert len(reasons) == 1
    [reason] = reasons
    assert reason.startswith("spec.lora.loadIn4Bit: ")
    assert "on the CPU: OSError: its native library" in reason
    assert "loadIn8Bit" in reason
    assert "(rank 1 of 2)" in reason


def refusal(lora: Lora) -> str:
    with alone() as gang, pytest.raises(InvalidConfigurationError) as refused:
        check_quantization(lora, gang.devices, gang)
    return str(refused.value)


def test_a_library_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.cextension", None)
    assert re.match(r"spec\.lora\.loadIn8Bit: .* ModuleNotFoundError: .*bitsandbytes", refusal(BITS[8]))


@pytest.mark.parametrize(("bits", "quantise"), [(4, "quantize_4bit"), (8, "int8_vectorwise_quant")])
def test_wrong_numbers_are_told(monkeypatch: pytest.MonkeyPatch, bits: int, quantise: str) -> None:
    import bitsandbytes

    rightly = getattr(bitsandbytes.functional, quantise)
    monkeypatch.setattr(
        bitsandbytes.functional,
        quantise,
        lambda matrix, **given: rightly(matrix.flip(0).contiguous(), **given),
    )
    assert f"spec.lora.loadIn{bits}Bit: " in (said := refusal(BITS[bits]))
    assert "products differ from the exact ones by 1.4 of their length" in said


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: GPU is lost")]
)
def test_what_is_no_fault_of_the_library_is_not_called_so(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> nn.Module:
        raise error

    monkeypatch.setattr(quantizing, "_layer", fail)
    with alone() as gang, pytest.raises(type(error), match=str(error)):
        check_quantization(BITS[4], gang.devices, gang)


def test_inputs_beyond_half_precision_come_through_8_bits(caplog: pytest.LogCaptureFixture) -> None:
    """As GPUs compute, which take inputs in fp16: what is too large for it is taken as it is. And nothing is said."""
    from bitsandbytes.nn.modules import Linear8bitLt

    draw = torch.Generator().manual_seed(0)
    layer = Linear8bitLt(256, 128, bias=False, has_fp16_weights=False, threshold=6.0)
    weight = 0.02 * torch.randn(128, 256, generator=draw)
    layer.weight.data = weight
    # Out of training, it computes on the CPU as in training on a GPU.
    layer.to(CPU)  # type: ignore[no-untyped-call]
    layer.eval()
    inputs = torch.randn(64, 256, generator=draw)
    inputs[:, 3] = 1e6
    leave_out_noise()
    with caplog.at_level(logging.INFO):
        outputs = layer(inputs)
    assert (outputs - inputs @ weight.T).norm() < 0.02 * outputs.norm()
    assert caplog.records == []
