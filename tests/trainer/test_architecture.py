"""Shapes read from config.json are those of the models that transformers builds for it, on the meta device."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.architecture import Linear, from_config

CONFIGS = Path(__file__).parents[1] / "configs"
# One model of each family.
FAMILIES = {
    "llama": "llama-3.2-1b",
    "mistral": "mistral-7b-v0.3",
    "qwen2": "qwen2.5-0.5b",
    "qwen3": "qwen3-0.6b",
    "gemma": "gemma-2b",
    "gemma2": "gemma-2-9b",
    "gemma3_text": "gemma-3-1b",
    "granite": "granite-3.1-8b",
    "phi": "phi-2",
    "phi3": "phi-3-mini-4k",
    "gpt2": "gpt2",
    "gptj": "gpt-j-6b",
    "gpt_neo": "gpt-neo-125m",
    "opt": "opt-125m",
}
# Two layers tell as much as many.
SHALLOW: dict[str, Any] = {
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "attention_types": [[["global", "local"], 1]],
    "attention_layers": ["global", "local"],
}
ABSENT = "absent"
# Fields that change the shape, each as it is spelt in some family; to the others it means nothing.
VARIATIONS: list[dict[str, Any]] = [
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"tie_word_embeddings": ABSENT},
    {"attention_bias": True, "mlp_bias": True, "qk_layernorm": True, "enable_bias": True},
    {"attention_bias": False, "mlp_bias": False, "qk_layernorm": False, "enable_bias": False},
    {"attention_bias": ABSENT, "mlp_bias": ABSENT, "qk_layernorm": ABSENT, "enable_bias": ABSENT},
    {"head_dim": 96},
    {"head_dim": ABSENT},
    {"num_key_value_heads": 1},
    {"num_key_value_heads": ABSENT, "num_attention_heads": 32, "n_head": 32, "num_heads": 32},
    {"intermediate_size": 1000, "n_inner": 1000, "ffn_dim": 1000},
    {"word_embed_proj_dim": ABSENT},
    {"max_position_embeddings": 100, "n_positions": 100},
]


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def build(config: dict[str, Any]) -> PreTrainedModel:
    """What transformers builds, without memory for its weights."""
    hf_config = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(hf_config)
    return model


def linears_of(model: PreTrainedModel, blocks: str) -> set[Linear]:
    """The linear layers of all blocks, counted."""
    counts: dict[tuple[str, int, int, bool], int] = {}
    for block in model.get_submodule(blocks).children():
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):
                shape = (name, module.out_features, module.in_features, module.bias is not None)
            elif isinstance(module, Conv1D):
                shape = (name, module.nf, module.nx, True)
            else:
                continue
            counts[shape] = counts.get(shape, 0) + 1
    return {Linear(name, out, into, n, bias) for (name, out, into, bias), n in counts.items()}


def numbers(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def check(config: dict[str, Any]) -> None:
    """Everything that is read from `config` is as in the model that transformers builds."""
    model, read = build(config), from_config(config)
    linears = linears_of(model, read.blocks)
    assert len(read.linears) == len(linears)
    assert set(read.linears) == linears
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    assert read.embedding_parameters == numbers(*embeddings)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert read.tied_embeddings == tied
    head = numbers(model.get_output_embeddings())
    assert read.head_parameters == head - (read.vocabulary * read.hidden_size if tied else 0)
    assert read.parameters == numbers(model)
    assert read.layers == model.config.num_hidden_layers
    assert read.attention_heads == model.config.num_attention_heads
    assert read.context_length == model.config.max_position_embeddings


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_public_models(name: str) -> None:
    check(config_of(name))


@pytest.mark.parametrize(
    "variation", VARIATIONS, ids=lambda fields: ",".join(f"{k}={v}" for k, v in fields.items())
)
@pytest.mark.parametrize("family", FAMILIES)
def test_variations(family: str, variation: dict[str, Any]) -> None:
    fields = config_of(FAMILIES[family]) | SHALLOW | variation
    check({field: value for field, value in fields.items() if value != ABSENT})
