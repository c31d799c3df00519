"""Attention over packed samples: each one sees itself and nothing else.

The samples of a micro-batch lie one behind the other in a single row. Computing attention sample by sample needs
neither padding nor a mask over all pairs of tokens, and no kernel ever sees two samples at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# The name under which transformers' models find it (their `attn_implementation`).
PER_SAMPLE = "per_sample"


def per_sample_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sample_lengths: Sequence[int],
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sample.

    query is [1, heads, tokens, head_dim], key and value likewise with their own number of heads; `sample_lengths`
    add up to `tokens`. Returns [1, tokens, heads, head_dim]. The signature is transformers'.
    """
    assert attention_mask is None, "transformers makes no mask for an implementation that it does not know"
    lengths = list(sample_lengths)
    outputs = []
    for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True):
        window = _window(q.shape[2], sliding_window, q.device)
        output, _ = sdpa_attention_forward(module, q, k, v, window, **options)
        outputs.append(output)
    return torch.cat(outputs, dim=1), None


def _window(tokens: int, size: int | None, device: torch.device) -> Tensor | None:
    """Mask [1, 1, tokens, tokens] of a causal sliding window; None where the window covers the whole sample."""
    if size is None or tokens <= size:
        return None
    everything = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    return everything.tril().triu(1 - size)[None, None]


AttentionInterface.register(PER_SAMPLE, per_sample_attention)
