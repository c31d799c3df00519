"""A frozen model that is split over the devices of one process.

There is no machine with several GPUs here. What each device gets is looked at on skeletons. That nothing meets what is
on another device is tried with tensors that have a device and a shape and no numbers, in a mode in which torch refuses
operations across devices. That the numbers stay what they are is tried with all parts on the CPU, handing over as
they would.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_module
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import get_total_norm
from transformers import AutoConfig, PreTrainedModel

from finetune_api.failure import ExitCode
from finetune_api.methods import Lora
from finetune_api.splitting import blocks_per_gpu
from finetune_trainer import distributed
from finetune_trainer.adapters import base as frozen
from finetune_trainer.adapters.adapter import adapt
from finetune_trainer.adapters.identity import Named
from finetune_trainer.adapters.quantization import quantization
from finetune_trainer.adapters.splitting import placement
from finetune_trainer.checkpoints.state import State
from finetune_trainer.ends.errors import InvalidConfigurationError, MissingGpuError
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.model import blocks, load_config, skeleton
from finetune_trainer.optimization import clip
from tiny import save_tiny_model
from trainer.allocations import base_model, config_of

CONFIGS = Path(__file__).parent.parent / "configs"
# The trainer cannot train this one.
FAMILIES = sorted({file.stem for file in CONFIGS.glob("*.json")} - {"gpt-neo-125m"})
CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
LENGTHS = [5, 9, 2]


def gpus(count: int) -> list[torch.device]:
    return [torch.device("cuda", index) for index in range(count)]


def found_at(devices: dict[str, torch.device], name: str) -> torch.device:
    """Where a weight lies: exactly one beginning of its name is there."""
    [device] = [device for part, device in devices.items() if name.startswith(f"{part}.")]
    return device


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_go_to_gpus_in_their_order_and_evenly(family: str, count: int) -> None:
    config = AutoConfig.for_model(**json.loads((CONFIGS / f"{family}.json").read_text()))
    hf, devices = skeleton(config), placement(config, gpus(count))
    where = {name: found_at(devices, name) for name, _ in [*hf.named_parameters(), *hf.named_buffers()]}
    of_blocks = [
        {where[f"{block}.{name}"] for name in layer.state_dict()} for block, layer in blocks(hf).items()
    ]
    # No block is divided.
    stack = [device.index for [device] in of_blocks]
    assert stack == sorted(stack)
    tied = hf.get_input_embeddings().weight is hf.get_output_embeddings().weight
    assert [stack.count(gpu) for gpu in range(count)] == blocks_per_gpu(
        len(stack), count, tied_embeddings=tied
    )
    names = {module: name for name, module in hf.named_modules()}
    assert devices[names[hf.get_input_embeddings()]].index == 0
    assert devices[names[hf.get_output_embeddings()]].index == (0 if tied else count - 1)
    norms = [name for name in devices if "norm" in name or "ln_f" in name]
    positions = [name for name in devices if "rotary" in name or "wpe" in name or "embed_positions" in name]
    assert {devices[name].index for name in norms} == {count - 1}
    assert {devices[name].index for name in positions} <= {0}


def test_a_single_gpu_has_all() -> None:
    assert placement(config_of("llama"), gpus(1)) == {"": gpus(1)[0]}


def test_more_gpus_than_blocks_are_refused() -> None:
    with pytest.raises(
        InvalidConfigurationError, match=r"gpusPerNode: the 2 blocks of LlamaForCausalLM .* over 3 GPUs"
    ):
        placement(config_of("llama", num_hidden_layers=2), gpus(3))


def test_a_node_that_shows_too_few_gpus_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(
        MissingGpuError, match="gpusPerNode: 4 or more GPUs are wanted, and this node shows 3"
    ) as told:
        distributed.Gang(use_gpu=True, split_over=4)
    assert told.value.exit_code == ExitCode.GPU_ERROR


def dispatched(hf: PreTrainedModel, devices: dict[str, torch.device]) -> PreTrainedModel:
    """What loading a model onto several devices makes of it."""
    dispatch_model(hf, devices, skip_keys=hf._skip_keys_device_placement, force_hooks=True)
    for name, module in hf.named_modules():
        if "lora" in name:
            # Adapters come later: they find what they take on their own device.
            remove_hook_from_module(module)
    return hf


def adapted(hf: PreTrainedModel, *, checkpointing: bool, dropout: float = 0.0) -> PeftModel:
    if checkpointing:
        hf.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(1)
    found = adapt(hf.train(), Lora.model_validate({"dropout": dropout}), r=4, alpha=8, base=Named("tiny"))
    for name, weight in found.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return found


def inputs() -> dict[str, Any]:
    """Packed samples, of which the first token of each is not predicted."""
    boundaries = torch.tensor([0, *LENGTHS]).cumsum(0, dtype=torch.int32)
    tokens = torch.arange(sum(LENGTHS)) % 7
    predicting = torch.cat([torch.arange(a, b - 1) for a, b in pairwise([0, 5, 14, 16])])
    return {
        "input_ids": tokens[None],
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
        "sample_lengths": LENGTHS,
        "boundaries": boundaries,
        "predicting": predicting,
        "targets": tokens[predicting + 1],
    }


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_nothing_meets_what_is_on_another_device(family: str, checkpointing: bool) -> None:
    """From the data, which are on the first one, to the optimizer."""
    config = config_of(family, vocab_size=64, tie_word_embeddings=family != "llama")
    devices, hf = placement(config, [CPU, ELSEWHERE]), base_model(config)
    with_adapters = adapted(hf, checkpointing=checkpointing, dropout=0.1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _place(hf, devices)
        dispatched(hf, devices)
        # Only now: tensors without numbers all have the same address, by which accelerate knows what is tied.
        hf.tie_weights()
        stack = list(blocks(hf).values())
        assert [next(block.parameters()).device for block in stack] == [CPU, CPU, ELSEWHERE, ELSEWHERE]
        given: list[tuple[torch.device, torch.device]] = []
        trained = LowRank(with_adapters)
        for block in stack:
            _watch(block, given)
        loss = trained.model(**inputs())
        assert loss.device == (ELSEWHERE if family == "llama" else CPU)
        loss.backward()
        # Activation checkpointing remembers the random numbers of the device on which it finds what it keeps. If that
        # was not the block's, dropout would be another one when the pass is repeated.
        assert len(given) == (4 if checkpointing else 0)
        assert all(device == at for device, at in given)
        weights = list(trained.shared.values())
        assert {weight.device for weight in weights} == {CPU, ELSEWHERE}
        for weight in weights:
            assert weight.grad is not None
            assert weight.grad.device == weight.device
        get_total_norm(weight.grad for weight in weights if weight.grad is not None)
        clip(weights, 2.0, 1.0)
        optimizer = torch.optim.AdamW(weights, foreach=True)
        optimizer.step()
        state = State(trained, optimizer, cast(Any, None))
        state.make_room(3, set(state.tensors()))
        assert all(optimizer.state[weight]["step"].device == weight.device for weight in weights)


def _place(hf: PreTrainedModel, devices: dict[str, torch.device]) -> None:
    """Make all tensors anew, without numbers, where they are to be: such tensors do not move."""
    for name, module in hf.named_modules():
        for short, old in module.named_parameters(name, recurse=False):
            new = torch.empty_like(old, device=found_at(devices, short))
            setattr(module, short.rpartition(".")[2], nn.Parameter(new, requires_grad=old.requires_grad))
        for short, old in module.named_buffers(name, recurse=False):
            setattr(module, short.rpartition(".")[2], torch.empty_like(old, device=found_at(devices, short)))


def _watch(block: nn.Module, given: list[tuple[torch.device, torch.device]]) -> None:
    """Take note of the device of what activation checkpointing keeps, and of the block's."""
    keep: Callable[..., Any] | None = getattr(block, "_gradient_checkpointing_func", None)
    if keep is None:
        return

    def watching(function: Any, states: Tensor, *rest: Any) -> Any:
        given.append((states.device, next(block.parameters()).device))
        return keep(function, states, *rest)

    block._gradient_checkpointing_func = watching  # type: ignore[assignment]


def learned(trained: LowRank) -> tuple[Tensor, list[Tensor | None]]:
    loss: Tensor = trained.model(**inputs())
    loss.backward()
    return loss.detach(), [weight.grad for weight in trained.shared.values()]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("narrow", [{}, {"loadIn4Bit": True}], ids=["fp32", "4-bit"])
def test_parts_that_hand_over_compute_what_the_whole_model_does(
    tmp_path: Path, narrow: dict[str, Any], checkpointing: bool
) -> None:
    save_tiny_model(tmp_path, family="qwen2")
    config = load_config(tmp_path)

    def model() -> PreTrainedModel:
        return frozen.load(tmp_path, {"": CPU}, quantization(Lora.model_validate(narrow), CPU, config))

    whole = learned(LowRank(adapted(model(), checkpointing=False)))
    in_parts = dict.fromkeys(placement(config, gpus(2)), CPU)
    split = learned(LowRank(adapted(dispatched(model(), in_parts), checkpointing=checkpointing)))
    assert split[0] == whole[0]
    torch.testing.assert_close(split[1], whole[1], rtol=0, atol=0)
