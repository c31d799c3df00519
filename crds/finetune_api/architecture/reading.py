"""Pure: the exact shapes of a dense causal language model, from its parsed config.json."""

from collections.abc import Mapping
from typing import Any

from finetune_api.architecture.config_fields import (
    ArchitectureError,
    bytes_per_number,
    flag,
    optional_size,
    size,
)
from finetune_api.architecture.families import Family, Flag, Side, family_of
from finetune_api.architecture.shapes import Architecture, Linear


def from_config(config: Mapping[str, Any]) -> Architecture:
    """The shapes that transformers builds for a parsed config.json.

    Raises ArchitectureError where the model is of no known family, a mixture of experts or quantized, and where a
    field is missing or makes no sense. A quantized model is refused rather than counted in some width: its weights
    cannot be trained as they are.
    """
    model_type, family = family_of(config)
    fields = family.fields
    hidden, heads = size(config, fields.hidden_size), size(config, fields.attention_heads)
    head, kv_heads = _heads(config, family, hidden, heads)
    layers, vocabulary = size(config, fields.layers), size(config, fields.vocabulary)
    intermediate = optional_size(config, fields.intermediate_size, None) if family.widening else None
    if intermediate is None:
        intermediate = family.widening * hidden if family.widening else size(config, fields.intermediate_size)
    if family.position_rows is None:
        context, positions = optional_size(config, fields.context_length, None), 0
    else:
        context = size(config, fields.context_length)
        positions = context + family.position_rows
    tied = flag(config, "tie_word_embeddings", family.tied)

    sides: dict[Side, int] = {
        "hidden": hidden,
        "queries": heads * head,
        "keys": kv_heads * head,
        "queries+keys+values": (heads + 2 * kv_heads) * head,
        "intermediate": intermediate,
        "gate+up": 2 * intermediate,
    }
    head_norms = 2 * layers * head if _has(config, family.head_norms) else 0
    norms = (family.norms * layers + 1) * hidden + head_norms
    return Architecture(
        model_type=model_type,
        hidden_size=hidden,
        layers=layers,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_size=head,
        intermediate_size=intermediate,
        vocabulary=vocabulary,
        context_length=context,
        tied_embeddings=tied,
        blocks=family.blocks,
        linears=tuple(
            Linear(each.name, sides[each.outputs], sides[each.inputs], layers, _has(config, each.bias))
            for each in family.modules
        ),
        embedding_parameters=(vocabulary + positions) * hidden,
        head_parameters=(0 if tied else vocabulary * hidden) + (vocabulary if family.head_bias else 0),
        other_parameters=norms * (2 if family.norm_bias else 1),
        stored_bytes=bytes_per_number(config),
    )


def _heads(config: Mapping[str, Any], family: Family, hidden: int, heads: int) -> tuple[int, int]:
    """Size of a head, and number of key/value heads."""
    fields = family.fields
    head = optional_size(config, fields.head_size, family.head_size) if fields.head_size else None
    if head is None and hidden % heads:
        raise ArchitectureError(
            f"{fields.hidden_size}: {hidden} is not a multiple of {fields.attention_heads}, which is {heads}"
        )
    kv_heads = optional_size(config, fields.kv_heads, family.kv_heads) if fields.kv_heads else None
    if kv_heads is not None and heads % kv_heads:
        raise ArchitectureError(
            f"{fields.kv_heads}: {kv_heads} does not divide {fields.attention_heads}, which is {heads}"
        )
    return head or hidden // heads, kv_heads or heads


def _has(config: Mapping[str, Any], trait: bool | Flag) -> bool:
    return trait if isinstance(trait, bool) else flag(config, trait.field, trait.default)
