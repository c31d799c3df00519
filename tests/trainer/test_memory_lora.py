"""What is said about the memory of lora is what torch allocates, in real training steps on the CPU."""

import gc
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from finetune_api import names
from finetune_api.architecture import from_config
from finetune_api.memory import Mode
from finetune_api.memory.adapters import base_bytes
from finetune_api.methods import Lora
from finetune_api.recipe import Recipe
from finetune_api.report import Report
from finetune_api.trained_weights import lora_alpha, lora_r
from finetune_trainer.adapters import base as frozen
from finetune_trainer.adapters.adapter import adapt
from finetune_trainer.adapters.identity import Named
from finetune_trainer.adapters.quantization import keep_scales, quantization
from finetune_trainer.methods.lora import LowRank
from tiny import save_chat_data, save_tokenizer
from trainer import forked, gangs
from trainer.allocations import SFT, base_model, config_of, estimated, measured_peak, member_of

TOLERANCE = 0.05
KEPT, RECOMPUTED = Mode(False, False), Mode(True, False)


def lora(*, nodes: int = 1, gpus_per_node: int = 0, **knobs: Any) -> Recipe:
    return replace(
        SFT, method="lora", lora=Lora(**({"r": 16} | knobs)), nodes=nodes, gpus_per_node=gpus_per_node
    )


def small(family: str = "llama", **shape: Any) -> Any:
    """With few words, so that adapters are what weighs."""
    return config_of(family, **({"tie_word_embeddings": False, "vocab_size": 300} | shape))


def loaded(recipe: Recipe, config: Any, mode: Mode) -> PreTrainedModel:
    """The frozen model: in bf16 as on GPUs, or fp32."""
    model = base_model(config)
    if recipe.on_gpu:
        model.bfloat16()
    return prepared(model, mode)


def prepared(model: PreTrainedModel, mode: Mode, *, reentrant: bool = False) -> PreTrainedModel:
    model.requires_grad_(False)
    if mode.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
    return model


def adapted(recipe: Recipe, model: PreTrainedModel) -> LowRank:
    adapters = adapt(
        model, recipe.lora, r=lora_r(recipe), alpha=lora_alpha(recipe), base=Named("a base model")
    )
    return LowRank(adapters, world_size=recipe.world_size)


@pytest.mark.parametrize(
    ("recipe", "config", "tokens", "mode"),
    [
        (lora(), small(), 1024, KEPT),
        (lora(r=64), config_of("llama", tie_word_embeddings=False, num_hidden_layers=8), 256, KEPT),
        (lora(), small(), 1024, RECOMPUTED),
        (lora(dropout=0.1), small(), 1024, KEPT),
        (lora(target_modules=["q_proj", "v_proj"]), small("qwen2", num_hidden_layers=8), 512, KEPT),
        (lora(target_modules=["mlp.*"]), small("gemma3_text", num_hidden_layers=8), 512, KEPT),
        # As GPUs compute.
        (lora(gpus_per_node=1), small(), 1024, KEPT),
        (lora(gpus_per_node=1), small(), 1024, RECOMPUTED),
        (lora(gpus_per_node=1, target_modules=["down_proj"]), small(), 1024, RECOMPUTED),
        # Logits of more than one chunk of tokens.
        (lora(gpus_per_node=1), small(vocab_size=8000, num_hidden_layers=2), 2048, RECOMPUTED),
        # Between two processes gradients are copied, when activations are gone.
        (lora(nodes=2, r=256), small(), 256, Mode(False, True)),
        (lora(nodes=2, r=256), small(), 32, Mode(False, True)),
        (lora(use_dora=True), small(), 512, KEPT),
        (lora(use_dora=True), small(), 512, RECOMPUTED),
        (lora(use_dora=True, dropout=0.1), small(), 512, KEPT),
        (lora(use_dora=True, gpus_per_node=1), small(), 512, KEPT),
        (lora(use_dora=True, gpus_per_node=1), small(), 1024, RECOMPUTED),
        # Here, what DoRA makes of a whole matrix needs most.
        (lora(use_dora=True), small(hidden_size=512, intermediate_size=1400), 32, KEPT),
        (lora(use_dora=True, gpus_per_node=1), small(hidden_size=512, intermediate_size=1400), 32, KEPT),
    ],
    ids=lambda value: (
        str(value.lora.model_dump(exclude_defaults=True)) if isinstance(value, Recipe) else None
    ),
)
def test_a_step(recipe: Recipe, config: Any, tokens: int, mode: Mode) -> None:
    longest = min(tokens, 256)
    with ExitStack() as stack:
        if recipe.world_size > 1:
            stack.enter_context(member_of(recipe.world_size))
        peak = measured_peak(
            lambda config: adapted(recipe, loaded(recipe, config, mode)),
            config,
            tokens,
            longest,
            locally=mode.accumulate_locally,
        )
    assert estimated(recipe, config, tokens, longest, mode) == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize(
    ("knobs", "tokens", "mode"),
    [
        ({}, 1024, KEPT),
        ({"target_modules": ["q_proj"]}, 512, KEPT),
        ({}, 1024, RECOMPUTED),
        ({"use_dora": True}, 256, KEPT),
    ],
    ids=str,
)
def test_a_step_beside_fewer_bits(
    bits: str, knobs: dict[str, Any], tokens: int, mode: Mode, tmp_path: Path
) -> None:
    recipe, config = lora(**knobs, **{bits: True}), small()
    base_model(config).save_pretrained(tmp_path)
    before = held()
    cpu = torch.device("cpu")
    model = frozen.load(tmp_path, {"": cpu}, quantization(recipe.lora, cpu, config)).train()
    if recipe.lora.load_in_8bit:
        keep_scales(model)
    found = held() - before
    # Tables of numbers that 4 bits stand for come on top, the same for a layer of any size.
    assert base_bytes(recipe, from_config(config.to_dict())) == pytest.approx(found, rel=0.02)
    peak = found + measured_peak(
        lambda config: adapted(recipe, prepared(model, mode, reentrant=recipe.lora.load_in_8bit)),
        config,
        tokens,
        min(tokens, 256),
    )
    # Of a block that was recomputed, some is gone by the time that its largest matrix is wide: the plan counts both.
    tolerance = 0.08 if mode == RECOMPUTED else TOLERANCE
    assert estimated(recipe, config, tokens, min(tokens, 256), mode) == pytest.approx(peak, rel=tolerance)


def held() -> int:
    """Bytes of all tensors that there are."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


@pytest.mark.parametrize(("nodes", "knobs"), [(2, {}), (1, {"load_in_4bit": True})], ids=str)
def test_what_a_real_run_had_in_main_memory_is_what_was_expected(
    nodes: int, knobs: dict[str, Any], tmp_path: Path
) -> None:
    save_chat_data(tmp_path / "train.jsonl", samples=20)
    save_tokenizer(tmp_path / "model")
    # 80 MB, more than what else comes and goes in a process.
    shape = {"vocab_size": 300, "hidden_size": 512, "intermediate_size": 2048, "num_key_value_heads": 8}
    base_model(config_of("llama", head_dim=64, **shape)).save_pretrained(tmp_path / "model")
    run = gangs.config(tmp_path, name="run", nodes=nodes, effectiveBatchSize=4, maxSteps=4, maxSeqLen=128)
    forked.train(run.model_copy(update={"method": "lora", "lora": Lora(**knobs)}))
    peak = max(step.peak_memory or 0 for step in gangs.metrics(tmp_path / "run"))
    plan = Report.model_validate_json((tmp_path / "run" / names.REPORT_FILE).read_text()).plan
    assert plan is not None
    assert plan.memory_per_gpu is not None
    assert plan.memory_per_gpu.low < peak < plan.memory_per_gpu.high
