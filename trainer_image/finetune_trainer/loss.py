"""Token cross-entropy that never holds the logits of more than a chunk of tokens.

A vocabulary of 150,000 makes the logits of 16,384 tokens 10 GB in fp32. The gradient of each chunk is computed
together with its loss, so that its logits can go at once; only tokens that loss is taken on get logits at all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finetune_api.memory.phases import LOSS_CHUNK

Head = Callable[[Tensor], Tensor]


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head, *weights: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.zeros_like(hidden)
        # Chunks add up in fp32: in bf16 the later ones would be rounded away.
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        for start in range(0, targets.numel(), LOSS_CHUNK):
            part = slice(start, start + LOSS_CHUNK)
            with torch.enable_grad():
                some = hidden[part].detach().requires_grad_()
                loss = functional.cross_entropy(head(some).float(), targets[part], reduction="sum")
                mine, *theirs = torch.autograd.grad(loss, [some, *weights])
            total += loss.detach()
            gradient[part] = mine
            for into, addend in zip(sums, theirs, strict=True):
                into += addend
        ctx.gradient, ctx.sums, ctx.dtypes = gradient, sums, [weight.dtype for weight in weights]
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0]
        of_weights = [total.mul_(scale).to(dtype) for total, dtype in zip(ctx.sums, ctx.dtypes, strict=True)]
        gradient = (ctx.gradient * scale).to(ctx.gradient.dtype)
        # Whoever keeps the loss keeps this, and the head's gradient may be as large as the head.
        del ctx.gradient, ctx.sums
        return gradient, None, None, *of_weights


def summed_cross_entropy(hidden: Tensor, targets: Tensor, head: Head, weights: list[Tensor]) -> Tensor:
    """Sum over tokens of the cross-entropy between head(hidden) and targets, in fp32.

    `hidden` is [tokens, width], `targets` [tokens]; `weights` are the parameters that `head` uses. With no token at
    all the sum is zero and so are all gradients: every process takes part in every collective.
    """
    total: Tensor = _ChunkedCrossEntropy.apply(hidden, targets, head, *weights)
    return total
