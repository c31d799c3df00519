"""What training steps on the CPU allocate, and what is estimated for them."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch._C._profiler import _ExtraFields_Allocation, _ProfilerEvent
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_api.architecture import from_config
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.memory import Mode, leanest, memory
from finetune_api.methods import Lora, Osft
from finetune_api.recipe import Recipe
from finetune_api.spec import Checkpoints
from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel, exchange_gradients, shard

# Tokens of each sample.
LONGEST = 256
SFT = Recipe("sft", Hyperparameters(), Osft(), Lora(), Checkpoints(), nodes=1, gpus_per_node=0)
SHAPE = {
    "vocab_size": 8000,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 688,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 0,
}
GPT2 = {"n_embd": 256, "n_layer": 4, "n_head": 8, "n_inner": 688}


MODES = [Mode(*choices) for choices in product((False, True), repeat=2)]


def config_of(family: str, **shape: Any) -> Any:
    return AutoConfig.for_model(family, **(SHAPE | (GPT2 if family == "gpt2" else {}) | shape))


def base_model(config: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=PER_SAMPLE
    )
    model.train()
    return model


@dataclass
class Allocated:
    """Bytes that torch has allocated on the CPU, one number after each change."""

    totals: list[int] = field(default_factory=list)

    @property
    def peak(self) -> int:
        return max(self.totals)


@contextmanager
def allocating() -> Iterator[Allocated]:
    """Record all that is allocated inside."""
    gc.collect()
    found = Allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    events: list[_ProfilerEvent] = [*profiler.profiler.kineto_results.experimental_event_tree()]
    changes = []
    while events:
        event = events.pop()
        events += event.children
        if isinstance(event.extra_fields, _ExtraFields_Allocation):
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    total = 0
    for _, change in sorted(changes, key=lambda at_and_change: at_and_change[0]):
        total += change
        found.totals.append(total)


def micro_batch(config: Any, tokens: int, longest: int) -> dict[str, Any]:
    """Samples of `longest` tokens, with loss on every token."""
    lengths = [longest] * (tokens // longest)
    return {
        "input_ids": torch.randint(config.vocab_size, (1, tokens)),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "sample_lengths": lengths,
        "boundaries": torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32),
        "predicting": torch.arange(tokens),
        "targets": torch.randint(config.vocab_size, (tokens,)),
    }


def measured_peak(
    build: Callable[[Any], Parametrization],
    config: Any,
    tokens: int,
    longest: int = LONGEST,
    *,
    micro_batches: int = 2,
    locally: bool = False,
) -> int:
    """Most bytes allocated at a time in two optimizer steps, model and moments included."""
    with allocating() as allocated:
        trained = build(config)
        optimizer = AdamW([{"params": weights} for weights in trained.groups], lr=1e-4, fused=True)
        for _ in range(2):
            for index in range(micro_batches):
                exchange_gradients(trained.model, now=index == micro_batches - 1 or not locally)
                # As in a real step, nobody keeps the loss: some layers' inputs live as long as that.
                trained.model(**micro_batch(config, tokens, longest)).backward()
            trained.pull_back()
            trained.leak()
            for weights in trained.groups:
                clip_grad_norm_(weights, 1.0)
            optimizer.step()
            trained.zero_grad()
            trained.constrain()
            trained.push_forward()
    return allocated.peak


def estimated(
    recipe: Recipe, config: Any, tokens: int, longest: int = LONGEST, mode: Mode | None = None
) -> int:
    architecture = from_config(config.to_dict())
    found = memory(recipe, architecture, mode or leanest(recipe), tokens=tokens, longest=longest)
    return found.estimate - found.framework - found.saving


def whole(config: Any) -> TrainableModel:
    """A model to train in one process without a GPU."""
    return TrainableModel(base_model(config))


def divided(config: Any, gang: DeviceMesh, mode: Mode) -> TrainableModel:
    """A model to train as GPUs do: FSDP2 with bf16, here on the CPU."""
    model = whole(config)
    if mode.activation_checkpointing:
        model.hf.activation_checkpointing_enable({"use_reentrant": False})
    shard(model, gang, on_gpu=True)
    return model


@contextmanager
def member_of(size: int) -> Iterator[DeviceMesh]:
    """Be the first process of a gang of that size. What it allocates is the same when nothing is exchanged."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    yield init_device_mesh("cpu", (size,))
    dist.destroy_process_group()


def resident(script: str) -> list[int]:
    """Numbers that a Python process prints, with peak() for the most bytes that it has had in main memory.

    It gives back to the system what is freed, as the C library does with blocks of more than 32 MiB.
    """
    peak = "import re; peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    printed = subprocess.check_output([sys.executable, "-c", peak + script], env=environment)
    return [int(number) for number in printed.split()]
