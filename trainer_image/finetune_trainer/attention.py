"""Attention over packed samples: each one sees itself and nothing else.

The samples of a micro-batch lie one behind the other in a single row. No kernel ever sees a pair of tokens of two
samples, so there is neither padding nor a mask over all pairs of tokens. Two ways lead there:

- on GPUs, torch's FlashAttention for samples of different lengths, one call for all of them;
- elsewhere, and for what that kernel does not do, torch's scaled dot product attention, one call for each run of
  samples of equal length.

FlexAttention would do both, but compiles its kernels with Triton and a C compiler, and the trainer's image has neither.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_log = logging.getLogger(__name__)

# The name under which transformers' models find it (their `attn_implementation`).
PER_SAMPLE = "per_sample"

# Compute capability that FlashAttention needs: Ampere's.
_LEAST_CAPABILITY = (8, 0)
# Sizes of heads that it has a backward pass for, on every such GPU; multiples of 8.
_HEAD_SIZES = (*range(8, 193, 8), 256)
# What transformers hands on that is seen to, or changes nothing about attention.
_UNDERSTOOD = frozenset({"scaling", "dropout", "is_causal", "position_ids", "use_cache", "cache_position"})


class Kernel(Enum):
    """How attention is computed."""

    VARIABLE_LENGTH = "FlashAttention over all samples of a micro-batch at once"
    SAMPLE_BY_SAMPLE = "scaled dot product attention, sample by sample"


class Choice(NamedTuple):
    """A kernel, and why."""

    kernel: Kernel
    reason: str


def choose(
    capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, options: Mapping[str, Any]
) -> Choice:
    """Pure: the kernel for a device, the type of numbers, the size of heads, and transformers' options.

    `capability` is the GPU's compute capability, None on a CPU.
    """
    if capability is None:
        return Choice(Kernel.SAMPLE_BY_SAMPLE, "there is no GPU")
    if capability < _LEAST_CAPABILITY:
        have, least = (".".join(map(str, each)) for each in (capability, _LEAST_CAPABILITY))
        return Choice(
            Kernel.SAMPLE_BY_SAMPLE, f"the GPU has compute capability {have}; FlashAttention needs {least}"
        )
    if dtype not in (torch.bfloat16, torch.float16):
        return Choice(Kernel.SAMPLE_BY_SAMPLE, f"FlashAttention does not compute in {dtype}")
    if head_size not in _HEAD_SIZES:
        return Choice(Kernel.SAMPLE_BY_SAMPLE, f"FlashAttention does not do heads of {head_size} numbers")
    if options.get("is_causal") is False:
        return Choice(Kernel.SAMPLE_BY_SAMPLE, "the model's attention is not causal")
    if options.get("dropout"):
        return Choice(Kernel.SAMPLE_BY_SAMPLE, "FlashAttention for several samples has no dropout")
    if more := sorted(name for name in options.keys() - _UNDERSTOOD if options[name] is not None):
        return Choice(Kernel.SAMPLE_BY_SAMPLE, f"FlashAttention does not do {', '.join(more)}")
    return Choice(Kernel.VARIABLE_LENGTH, "the GPU and the model allow it")


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sample_lengths: Sequence[int],
    boundaries: Tensor,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sample.

    query is [1, heads, tokens, head_dim], key and value likewise with their own number of heads; `sample_lengths`
    add up to `tokens`, and `boundaries` ([samples + 1], int32) are their running sums, beginning with 0. Returns
    [1, tokens, heads, head_dim]. The signature is transformers'.
    """
    assert attention_mask is None, "transformers makes no mask for an implementation that it does not know"
    capability = torch.cuda.get_device_capability(query.device) if query.is_cuda else None
    choice = choose(capability, query.dtype, query.shape[-1], options)
    if module.training:
        _announce(choice)
    if choice.kernel is Kernel.SAMPLE_BY_SAMPLE:
        return _sample_by_sample(module, query, key, value, sample_lengths, sliding_window, options), None
    scale = options.get("scaling")
    return _all_at_once(query, key, value, sample_lengths, boundaries, sliding_window, scale), None


@cache
def _announce(choice: Choice) -> None:
    """Say once how attention is computed."""
    _log.info("attention: %s, because %s", choice.kernel.value, choice.reason)


def _all_at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sample_lengths: Sequence[int],
    boundaries: Tensor,
    sliding_window: int | None,
    scale: float | None,
) -> Tensor:
    longest = max(sample_lengths)
    # The kernel counts the tokens before the own one; where none of them is out of reach, plain causality is faster.
    reach = -1 if sliding_window is None or longest <= sliding_window else sliding_window - 1
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    # torch prefers cuDNN's kernel, which builds a graph for each new shape: every micro-batch has a shape of its own.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        output = varlen_attn(
            q,
            k,
            v,
            boundaries,
            boundaries,
            longest,
            longest,
            scale=scale,
            window_size=(reach, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
    assert isinstance(output, Tensor)
    return output[None]


def _sample_by_sample(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sample_lengths: Sequence[int],
    sliding_window: int | None,
    options: Mapping[str, Any],
) -> Tensor:
    outputs = []
    runs = [(len(list(equals)), length) for length, equals in groupby(sample_lengths)]
    parts = (_runs(states, runs) for states in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        window = _window(q.shape[2], sliding_window, q.device)
        output, _ = sdpa_attention_forward(module, q, k, v, window, **options)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs)[None]


def _runs(states: Tensor, runs: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """Views [samples, heads, length, head_dim] of [1, heads, tokens, head_dim] for each (samples, length).

    Split at once: the gradient of a slice is as large as what it is cut from.
    """
    parts = states[0].split([samples * length for samples, length in runs], dim=1)
    for (samples, length), part in zip(runs, parts, strict=True):
        yield part.unflatten(1, (samples, length)).transpose(0, 1)


def _window(tokens: int, size: int | None, device: torch.device) -> Tensor | None:
    """Mask [1, 1, tokens, tokens] of a causal sliding window; None where the window covers the whole sample."""
    if size is None or tokens <= size:
        return None
    everything = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    return everything.tril().triu(1 - size)[None, None]


AttentionInterface.register(PER_SAMPLE, packed_attention)
