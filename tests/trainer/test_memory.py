"""What is said about memory is what torch allocates, in real training steps on the CPU."""

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch._C._profiler import _ExtraFields_Allocation, _ProfilerEvent
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.functional import linear
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_api.architecture import from_config
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.memory import Mode, decomposition_peak, leanest, memory
from finetune_api.methods import Lora, Osft
from finetune_api.recipe import Recipe
from finetune_api.spec import Checkpoints
from finetune_api.trained_weights import trainable_parameters, unfrozen_rank
from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.model import TrainableModel, exchange_gradients, shard

# How far an estimate may be from what is measured.
TOLERANCE = 0.05
TOLERANCE_OF_LIBRARIES = 0.25
LEAST_FRAMEWORK = 400 * 2**20
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More of them wait for one another when the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    build: Callable[[Any], TrainableModel],
    config: Any,
    tokens: int,
    longest: int = LONGEST,
    *,
    micro_batches: int = 2,
    locally: bool = False,
    after_step: Callable[[TrainableModel], None] = lambda model: None,
) -> int:
    """Most bytes allocated at a time in two optimizer steps, model and moments included."""
    with allocating() as allocated:
        model = build(config)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = AdamW(trained, lr=1e-4, fused=True)
        for _ in range(2):
            for index in range(micro_batches):
                exchange_gradients(model, now=index == micro_batches - 1 or not locally)
                loss = model(**micro_batch(config, tokens, longest))
                loss.backward()
            clip_grad_norm_(trained, 1.0)
            optimizer.step()
            after_step(model)
            optimizer.zero_grad()
    return allocated.peak


def estimated(
    recipe: Recipe, config: Any, tokens: int, longest: int = LONGEST, mode: Mode | None = None
) -> int:
    architecture = from_config(config.to_dict())
    found = memory(recipe, architecture, mode or leanest(recipe), tokens=tokens, longest=longest)
    return found.estimate - found.framework - found.saving


def trainable(config: Any) -> TrainableModel:
    return TrainableModel(base_model(config))


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
    assert estimated(SFT, config, tokens) == pytest.approx(
        measured_peak(trainable, config, tokens), rel=TOLERANCE
    )


def test_a_single_micro_batch_needs_the_least() -> None:
    config = config_of("llama")
    peak = measured_peak(trainable, config, 1024, micro_batches=1)
    found = memory(SFT, from_config(config.to_dict()), leanest(SFT), tokens=1024, longest=LONGEST)
    assert found.low < peak + LEAST_FRAMEWORK < 1.02 * found.low
    assert peak < found.estimate - found.framework - found.saving


class Factored(nn.Module):
    """A linear layer as osft has it: W = U S V, of which the strongest directions are frozen."""

    u_high: Tensor
    s_high: Tensor
    v_high: Tensor
    u_low: Tensor
    s_low: Tensor
    v_low: Tensor

    def __init__(self, layer: nn.Linear, ratio: float) -> None:
        super().__init__()
        u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        frozen = len(s) - unfrozen_rank(layer.out_features, layer.in_features, ratio)
        for name, whole in (("u", u.T), ("s", s), ("v", v)):
            self.register_buffer(f"{name}_high", whole[:frozen].clone())
            self.register_parameter(f"{name}_low", nn.Parameter(whole[frozen:].clone()))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        high = linear(linear(x, self.v_high) * self.s_high, self.u_high.T)
        low = linear(linear(x, self.v_low) * self.s_low, self.u_low.T)
        return high + low if self.bias is None else high + low + self.bias

    @torch.no_grad()
    def project(self) -> None:
        """Take the frozen directions out of the trained ones."""
        self.u_low -= (self.u_low @ self.u_high.T) @ self.u_high
        self.v_low -= (self.v_low @ self.v_high.T) @ self.v_high


def factored(recipe: Recipe, config: Any) -> TrainableModel:
    model = base_model(config)
    for name, module in list(model.named_modules()):
        patterns = recipe.osft.target_patterns
        if (
            isinstance(module, nn.Linear)
            and "layers" in name
            and (not patterns or any(p in name for p in patterns))
        ):
            assert recipe.osft.unfreeze_rank_ratio is not None
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Factored(module, recipe.osft.unfreeze_rank_ratio))
    return TrainableModel(model)


def project(model: TrainableModel) -> None:
    for module in model.modules():
        if isinstance(module, Factored):
            module.project()


@pytest.mark.parametrize(
    ("family", "ratio", "patterns", "tokens"),
    [
        ("llama", 0.25, [], 256),
        ("llama", 0.5, [], 2560),
        ("llama", 1.0, [], 1024),
        ("qwen2", 0.5, [], 1024),
        ("llama", 0.5, ["mlp"], 1024),
    ],
)
def test_a_step_of_osft(family: str, ratio: float, patterns: list[str], tokens: int) -> None:
    recipe = replace(SFT, method="osft", osft=Osft(unfreeze_rank_ratio=ratio, target_patterns=patterns))
    config = config_of(family)
    model = factored(recipe, config)
    assert trainable_parameters(recipe, from_config(config.to_dict())) == sum(
        weight.numel() for weight in model.parameters()
    )
    peak = measured_peak(lambda config: factored(recipe, config), config, tokens, after_step=project)
    assert estimated(recipe, config, tokens) == pytest.approx(peak, rel=TOLERANCE)


def adapted(recipe: Recipe, config: Any) -> TrainableModel:
    model = base_model(config).requires_grad_(False)
    linears = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "layers" in name
    ]
    assert recipe.lora.r is not None
    adapters = LoraConfig(
        r=recipe.lora.r,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.target_modules or linears,
    )
    inject_adapter_in_model(adapters, model)
    return TrainableModel(model)


@pytest.mark.parametrize(
    ("family", "lora", "tokens"),
    [
        ("llama", Lora(r=16), 256),
        ("llama", Lora(r=64), 2560),
        ("llama", Lora(r=16, dropout=0.1), 1024),
        ("qwen2", Lora(r=16, target_modules=["q_proj", "v_proj"]), 1024),
        ("gemma3_text", Lora(r=16, target_modules=["gate_proj", "up_proj", "down_proj"]), 1024),
    ],
)
def test_a_step_of_lora(family: str, lora: Lora, tokens: int) -> None:
    recipe = replace(SFT, method="lora", lora=lora)
    # Nothing is kept of what comes before the first adapter. With few blocks that would be a large share.
    config = config_of(family, tie_word_embeddings=False, num_hidden_layers=8)
    trained = [weight for weight in adapted(recipe, config).parameters() if weight.requires_grad]
    architecture = from_config(config.to_dict())
    assert trainable_parameters(recipe, architecture) == sum(weight.numel() for weight in trained)
    peak = measured_peak(lambda config: adapted(recipe, config), config, tokens)
    assert estimated(recipe, config, tokens) == pytest.approx(peak, rel=TOLERANCE)


@pytest.fixture
def gang(size: int) -> Iterator[DeviceMesh]:
    """A process of a gang of that size. What it allocates is the same when nothing is exchanged."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    yield init_device_mesh("cpu", (size,))
    dist.destroy_process_group()


MODES = [Mode(*choices) for choices in product((False, True), repeat=2)]


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
    """FSDP2 with bf16: here on the CPU."""

    def sharded(config: Any) -> TrainableModel:
        model = trainable(config)
        if mode.activation_checkpointing:
            model.hf.activation_checkpointing_enable({"use_reentrant": False})
        shard(model, gang, on_gpu=True)
        return model

    config = config_of(family, attn_pdrop=0.0, **shape)
    peak = measured_peak(sharded, config, tokens, locally=mode.accumulate_locally)
    found = estimated(replace(SFT, gpus_per_node=size), config, tokens, mode=mode)
    assert found == pytest.approx(peak, rel=0.1)


def test_a_loss_that_is_kept_keeps_nothing_else() -> None:
    config = config_of("llama", vocab_size=50_000)
    batch = micro_batch(config, 256, 256)
    with allocating() as allocated:
        model = trainable(config)
        loss = model(**batch)
        loss.backward()
    weights = sum(weight.nbytes for weight in model.parameters())
    assert allocated.totals[-1] == pytest.approx(2 * weights, rel=0.001)


def resident(script: str) -> list[int]:
    """Numbers that a Python process prints, with peak() for the most bytes that it has had in main memory."""
    peak = "import re; peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    return [int(number) for number in subprocess.check_output([sys.executable, "-c", peak + script]).split()]


@pytest.mark.parametrize(("outputs", "inputs"), [(1600, 1600), (3000, 1000)])
def test_the_decomposition_of_a_matrix(outputs: int, inputs: int) -> None:
    """LAPACK takes its workspace past torch, so the process is measured."""
    config = config_of("llama", hidden_size=inputs, intermediate_size=outputs)
    recipe = replace(SFT, method="osft", osft=Osft(target_patterns=["gate_proj"]))
    before, after = resident(
        f"""
import torch
torch.set_num_threads(1)
torch.linalg.svd(torch.randn(50, 50), full_matrices=False)
print(peak())
torch.linalg.svd(torch.randn({outputs}, {inputs}), full_matrices=False)
print(peak())"""
    )
    expected = decomposition_peak(recipe, from_config(config.to_dict()))
    assert expected == pytest.approx(after - before, rel=0.2)


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
    [peak] = resident("import finetune_trainer.train, peft; print(peak())")
    found = memory(SFT, from_config(config_of("llama").to_dict()), leanest(SFT), tokens=1024, longest=LONGEST)
    assert peak > LEAST_FRAMEWORK
    assert peak == pytest.approx(found.framework, rel=TOLERANCE_OF_LIBRARIES)
