"""Holding the frozen model in 8 or 4 bits per weight, by bitsandbytes, and whether this machine can."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.methods import Lora
from finetune_trainer.distributed import Gang
from finetune_trainer.ends import symptoms
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.ends.out_of_memory import ran_out_of_memory
from finetune_trainer.model import linear_layers, skeleton

# What is tried: a matrix of so many outputs and inputs, and so many tokens. GPUs have kernels of their own for few.
_SHAPE = 192, 256
_TOKENS = 16, 2048
# How far products may be from the exact ones, relative to their length. Where all is well, nf4 leaves 0.09 and 8 bits
# leave 0.01; numbers that have nothing to do with the exact ones leave 1 and more.
_TOLERANCES = {"loadIn4Bit": 0.15, "loadIn8Bit": 0.03}


def quantization(
    lora: Lora, device: torch.device, model_config: PreTrainedConfig
) -> BitsAndBytesConfig | None:
    """How the linear layers of the blocks are held, and no others; None where they stay as wide as they are."""
    if not lora.is_quantized:
        return None
    hf = skeleton(model_config)
    inside = linear_layers(hf)
    outside = [
        # transformers looks for this at the end of names, too; with the mark of the beginning it finds it nowhere.
        "^" + re.escape(name)
        for name, module in hf.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name not in inside
    ]
    return _config(lora, device, outside)


def _config(lora: Lora, device: torch.device, outside: list[str]) -> BitsAndBytesConfig:
    if lora.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=outside)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_computing(device),
        llm_int8_skip_modules=outside,
    )


def _computing(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def check_quantization(lora: Lora, devices: Sequence[torch.device], gang: Gang) -> None:
    """Make sure that every process can train beside such weights on its devices. All of them call it.

    Raises InvalidConfigurationError in all of them if one cannot: nobody is left waiting for it.
    """
    if not lora.is_quantized:
        return
    problems = [problem for device in devices if (problem := _problem(lora, device))]
    for rank, found in enumerate(gang.collect(problems)):
        if found:
            raise InvalidConfigurationError(f"{found[0]} (rank {rank} of {gang.world_size})")


def _problem(lora: Lora, device: torch.device) -> str | None:
    """Why nobody can train beside such weights on this device, and what to do; None if one can: it is tried."""
    field, other = ("loadIn4Bit", "loadIn8Bit") if lora.load_in_4bit else ("loadIn8Bit", "loadIn4Bit")
    try:
        difference = max(_difference(lora, device, tokens) for tokens in _TOKENS)
        if difference <= _TOLERANCES[field]:
            return None
        said = f"its products differ from the exact ones by {difference:.2g} of their length"
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
        if ran_out_of_memory(error) or symptoms.of_native_code(str(error)):
            # No fault of the library: whatever else these mean is told elsewhere.
            raise
        said = f"{type(error).__name__}: {symptoms.first_line(str(error))}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return (
        f"spec.lora.{field}: bitsandbytes cannot hold weights so on {where}: {said}. Take {other} or neither, or "
        "other nodes, or a trainer image in which bitsandbytes is complete"
    )


def _difference(lora: Lora, device: torch.device, tokens: int) -> float:
    """How far a layer's outputs, and the gradients of its inputs, are from the exact ones, relative to their length."""
    draw = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(_SHAPE, generator=draw)
    inputs = torch.randn(tokens, _SHAPE[1], generator=draw)
    # Language models have some inputs that are much larger than the others. 8 bits treat them apart.
    inputs[:, 7] *= 10
    gradients = torch.randn(tokens, _SHAPE[0], generator=draw)
    config = _config(lora, device, [])
    x = inputs.to(device, _computing(device), copy=True).requires_grad_()
    outputs = _layer(config, weight, device)(x)
    outputs.backward(gradients.to(outputs))
    assert x.grad is not None
    return max(_relative(outputs.detach(), inputs @ weight.T), _relative(x.grad, gradients @ weight))


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found.float().cpu() - exact).norm() / exact.norm())


def _layer(config: BitsAndBytesConfig, weight: Tensor, device: torch.device) -> nn.Module:
    """A linear layer without bias, as transformers makes it."""
    # Imported only here, where it is told what is wrong with it.
    from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary, lib
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    if isinstance(lib, ErrorHandlerMockBNBNativeLibrary):
        # On the CPU it would do without: very slowly, and by a compiler that a trainer image does not have.
        raise OSError("its native library is missing or cannot be loaded")
    outputs, inputs = weight.shape
    layer: nn.Linear
    if config.load_in_4bit:
        layer = Linear4bit(  # type: ignore[no-untyped-call]
            inputs,
            outputs,
            bias=False,
            compute_dtype=config.bnb_4bit_compute_dtype,
            compress_statistics=config.bnb_4bit_use_double_quant,
            quant_type=config.bnb_4bit_quant_type,
        )
    else:
        layer = Linear8bitLt(
            inputs,
            outputs,
            bias=False,
            has_fp16_weights=config.llm_int8_has_fp16_weight,
            threshold=config.llm_int8_threshold,
        )
    layer.weight.data = weight
    return layer.to(device)


def keep_scales(hf: PreTrainedModel) -> None:
    """Have 8-bit layers find the scales of their weights whenever these are handed about.

    A layer takes the scales away from its weight when it first computes. On the CPU, peft's DoRA makes another weight
    of it in each pass, which has none any more.
    """
    from bitsandbytes.nn.modules import Linear8bitLt

    def give_back(layer: nn.Module, *_: object) -> None:
        assert isinstance(layer, Linear8bitLt)
        layer.weight.SCB = layer.state.SCB  # type: ignore[attr-defined]

    for module in hf.modules():
        if isinstance(module, Linear8bitLt):
            module.register_forward_hook(give_back)
