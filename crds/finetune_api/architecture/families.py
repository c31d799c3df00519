"""Pure: the families of dense causal language models whose shapes are known, as data: what differs between them.

Names and defaults are those of transformers: config.json holds its fields, and what config.json leaves out is
transformers' default for that family.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from finetune_api.architecture.config_fields import ArchitectureError, flag, optional_size, size

# A side of a linear layer. queries: attention heads x head size; keys (and values): key/value heads x head size.
Side = Literal["hidden", "queries", "keys", "queries+keys+values", "intermediate", "gate+up"]


@dataclass(frozen=True)
class Flag:
    """A boolean field of config.json, and what its absence means."""

    field: str
    default: bool = False


@dataclass(frozen=True)
class Module:
    """A linear layer that every block has, by its module name inside the block."""

    name: str
    outputs: Side
    inputs: Side
    bias: bool | Flag = False


@dataclass(frozen=True)
class Fields:
    """Where config.json states a dimension; None: this family has no such field."""

    hidden_size: str = "hidden_size"
    layers: str = "num_hidden_layers"
    attention_heads: str = "num_attention_heads"
    kv_heads: str | None = "num_key_value_heads"
    head_size: str | None = "head_dim"
    intermediate_size: str = "intermediate_size"
    vocabulary: str = "vocab_size"
    context_length: str = "max_position_embeddings"


@dataclass(frozen=True)
class Family:
    """What sets one model_type apart from another."""

    modules: tuple[Module, ...]
    blocks: str = "model.layers"
    """Module name of the list of blocks."""
    fields: Fields = Fields()
    tied: bool = False
    """Default of tie_word_embeddings: whether the output head is the input embedding."""
    kv_heads: int | None = None
    """Default number of key/value heads; None: as many as attention heads."""
    head_size: int | None = None
    """Default size of a head; None: hidden size / attention heads."""
    widening: int | None = None
    """Default intermediate size as a multiple of the hidden size; None: config.json must state it."""
    norms: int = 2
    """Norms per block that are as wide as the hidden size. One more follows the last block."""
    head_norms: bool | Flag = False
    """Whether queries and keys are normalised, head by head: two norms per block, as wide as a head."""
    norm_bias: bool = False
    """Whether norms have a bias beside the scale: LayerNorm, where others have RMSNorm."""
    head_bias: bool = False
    position_rows: int | None = None
    """Rows of the table of learned positions beyond the context length; None: there is no such table."""
    fixed: Mapping[str, bool] = field(default_factory=dict)
    """Fields that change the shape in ways not counted here, with the one value that is supported, the default."""
    embedding_size: str | None = None
    """The field by which embeddings could be of another width than the blocks, which is not counted here."""


def _gated(
    *, queries: bool | Flag = False, output: bool | Flag = False, mlp: bool | Flag = False
) -> tuple[Module, ...]:
    """The block of Llama and of all that follow it; the arguments tell which layers have biases."""
    return (
        Module("self_attn.q_proj", "queries", "hidden", queries),
        Module("self_attn.k_proj", "keys", "hidden", queries),
        Module("self_attn.v_proj", "keys", "hidden", queries),
        Module("self_attn.o_proj", "hidden", "queries", output),
        Module("mlp.gate_proj", "intermediate", "hidden", mlp),
        Module("mlp.up_proj", "intermediate", "hidden", mlp),
        Module("mlp.down_proj", "hidden", "intermediate", mlp),
    )


_ATTENTION_BIAS = Flag("attention_bias")
_LLAMA = Family(_gated(queries=_ATTENTION_BIAS, output=_ATTENTION_BIAS, mlp=Flag("mlp_bias")))
_GEMMA = Family(
    _gated(queries=_ATTENTION_BIAS, output=_ATTENTION_BIAS), tied=True, kv_heads=16, head_size=256
)
_GEMMA2 = replace(_GEMMA, kv_heads=4, norms=4)

_PHI = Family(
    (
        Module("self_attn.q_proj", "queries", "hidden", True),
        Module("self_attn.k_proj", "keys", "hidden", True),
        Module("self_attn.v_proj", "keys", "hidden", True),
        Module("self_attn.dense", "hidden", "queries", True),
        Module("mlp.fc1", "intermediate", "hidden", True),
        Module("mlp.fc2", "hidden", "intermediate", True),
    ),
    norms=1,
    head_norms=Flag("qk_layernorm"),
    norm_bias=True,
    head_bias=True,
)
_PHI3 = Family(
    (
        Module("self_attn.qkv_proj", "queries+keys+values", "hidden"),
        Module("self_attn.o_proj", "hidden", "queries"),
        Module("mlp.gate_up_proj", "gate+up", "hidden"),
        Module("mlp.down_proj", "hidden", "intermediate"),
    )
)

_GPT2 = Family(
    (
        Module("attn.c_attn", "queries+keys+values", "hidden", True),
        Module("attn.c_proj", "hidden", "queries", True),
        Module("mlp.c_fc", "intermediate", "hidden", True),
        Module("mlp.c_proj", "hidden", "intermediate", True),
    ),
    blocks="transformer.h",
    fields=Fields("n_embd", "n_layer", "n_head", None, None, "n_inner", context_length="n_positions"),
    tied=True,
    widening=4,
    norm_bias=True,
    position_rows=0,
    fixed={"add_cross_attention": False},
)
_GPTJ = Family(
    (
        Module("attn.q_proj", "queries", "hidden"),
        Module("attn.k_proj", "keys", "hidden"),
        Module("attn.v_proj", "keys", "hidden"),
        Module("attn.out_proj", "hidden", "queries"),
        Module("mlp.fc_in", "intermediate", "hidden", True),
        Module("mlp.fc_out", "hidden", "intermediate", True),
    ),
    blocks="transformer.h",
    fields=_GPT2.fields,
    widening=4,
    norms=1,
    norm_bias=True,
    head_bias=True,
)
_GPT_NEO = Family(
    (
        Module("attn.attention.q_proj", "queries", "hidden"),
        Module("attn.attention.k_proj", "keys", "hidden"),
        Module("attn.attention.v_proj", "keys", "hidden"),
        Module("attn.attention.out_proj", "hidden", "queries", True),
        Module("mlp.c_fc", "intermediate", "hidden", True),
        Module("mlp.c_proj", "hidden", "intermediate", True),
    ),
    blocks="transformer.h",
    fields=Fields(layers="num_layers", attention_heads="num_heads", kv_heads=None, head_size=None),
    tied=True,
    widening=4,
    norm_bias=True,
    position_rows=0,
)
_ENABLE_BIAS = Flag("enable_bias", default=True)
_OPT = Family(
    (
        Module("self_attn.q_proj", "queries", "hidden", _ENABLE_BIAS),
        Module("self_attn.k_proj", "keys", "hidden", _ENABLE_BIAS),
        Module("self_attn.v_proj", "keys", "hidden", _ENABLE_BIAS),
        Module("self_attn.out_proj", "hidden", "queries", _ENABLE_BIAS),
        Module("fc1", "intermediate", "hidden", _ENABLE_BIAS),
        Module("fc2", "hidden", "intermediate", _ENABLE_BIAS),
    ),
    blocks="model.decoder.layers",
    fields=Fields(kv_heads=None, head_size=None, intermediate_size="ffn_dim"),
    tied=True,
    norm_bias=True,
    position_rows=2,
    # Of the published models, opt-350m alone is otherwise.
    fixed={
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "layer_norm_elementwise_affine": True,
    },
    embedding_size="word_embed_proj_dim",
)

FAMILIES: Mapping[str, Family] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(_GEMMA2, head_norms=True),
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gptj": _GPTJ,
    "granite": _LLAMA,
    "llama": _LLAMA,
    "mistral": Family(_gated(), kv_heads=8),
    "opt": _OPT,
    "phi": _PHI,
    "phi3": _PHI3,
    "qwen2": Family(_gated(queries=True), kv_heads=32),
    "qwen3": Family(
        _gated(queries=_ATTENTION_BIAS, output=_ATTENTION_BIAS), kv_heads=32, head_size=128, head_norms=True
    ),
}

# Fields by which mixtures of experts state how many there are.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def family_of(config: Mapping[str, Any]) -> tuple[str, Family]:
    """The model_type of a parsed config.json, and its family.

    Raises ArchitectureError where the shapes of such a model are not known.
    """
    if not isinstance(config, Mapping):
        raise ArchitectureError("config.json must hold an object, with the fields of a transformers model")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ArchitectureError(
            "model_type: missing, so this is not the config.json of a transformers model; "
            "give the file that lies beside the model's weights"
        )
    known = f"Shapes are known for {', '.join(FAMILIES)}."
    experts = any(config.get(name) not in (None, 0, 1) for name in _EXPERTS)
    if experts or "moe" in model_type or model_type == "mixtral":
        raise ArchitectureError(
            f"model_type {reprlib.repr(model_type)}: shapes of mixtures of experts are not known; "
            f"take a dense model. {known}"
        )
    if model_type not in FAMILIES:
        raise ArchitectureError(
            f"model_type {reprlib.repr(model_type)}: its shapes are not known, so its memory and trained weights "
            f"cannot be computed; state hyperparameters.maxTokensPerGpu yourself, or take another model. {known}"
        )
    if config.get("quantization_config") is not None:
        raise ArchitectureError(
            "quantization_config: the weights are quantized already and cannot be trained; take the original model "
            "(lora quantizes it while loading: loadIn4Bit, loadIn8Bit)"
        )
    family = FAMILIES[model_type]
    for name, supported in family.fixed.items():
        if flag(config, name, supported) is not supported:
            raise ArchitectureError(
                f"{name}: a {model_type} model's shapes are known only where it is {str(supported).lower()}"
            )
    if family.embedding_size:
        hidden = size(config, family.fields.hidden_size)
        width = optional_size(config, family.embedding_size, hidden)
        if width not in (None, hidden):
            raise ArchitectureError(
                f"{family.embedding_size}: {width} is not {family.fields.hidden_size}, which is {hidden}; "
                f"shapes of such {model_type} models are not known"
            )
    return model_type, family
