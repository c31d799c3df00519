"""Token cross-entropy that never holds the logits of more than a chunk of tokens.

A vocabulary of 150,000 makes the logits of 16,384 tokens 10 GB in fp32. The gradient of each chunk is computed
together with its loss, in the place of its logits; only tokens that loss is taken on get logits at all.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finetune_api.memory.phases import LOSS_CHUNK, LOSS_SLICE


@dataclass(frozen=True)
class Head:
    """What makes logits of hidden states: a linear layer, and what some families do to its outputs."""

    weight: Tensor
    """[vocabulary, width]"""
    bias: Tensor | None = None
    """[vocabulary]"""
    scale: float = 1.0
    """Logits are multiplied by it."""
    cap: float | None = None
    """Then squeezed between -cap and cap, by the hyperbolic tangent."""

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits at once: [..., vocabulary] of [..., width]."""
        logits = functional.linear(hidden, self.weight, self.bias) * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, head: Head, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        # Chunks add up in fp32: in bf16 the later ones would be rounded away.
        of_weight, of_bias = (
            torch.zeros_like(each, dtype=torch.float32) if each is not None and needed else None
            for each, needed in zip((weight, bias), ctx.needs_input_grad[3:], strict=True)
        )
        chunk = LOSS_CHUNK[hidden.element_size()]
        # One for all chunks: memory that is given back in between is not always found again.
        buffer = hidden.new_empty(min(chunk, len(hidden)), len(weight), dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            loss, towards = _of_chunk(hidden[part], targets[part], head, buffer)
            total += loss
            narrow = towards.to(weight.dtype)
            torch.mm(narrow, weight, out=gradient[part])
            if of_weight is not None:
                _add_product(of_weight, narrow.t(), hidden[part])
            if of_bias is not None:
                of_bias += towards.sum(0)
            # Its room is for the next chunk's.
            del narrow
        ctx.gradients = [gradient, of_weight, of_bias]
        ctx.dtypes = [hidden.dtype, weight.dtype, weight.dtype]
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Whoever keeps the loss keeps this, and the head's gradient may be as large as the head.
        gradients, ctx.gradients = ctx.gradients, None
        hidden, weight, bias = (
            None if gradient is None else gradient.mul_(upstream[0]).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return hidden, None, None, weight, bias


def _of_chunk(hidden: Tensor, targets: Tensor, head: Head, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a chunk, and its gradient towards what the linear layer puts out, which lies in `buffer`."""
    logits = buffer[: len(hidden)]
    _multiply(hidden, head.weight.t(), out=logits)
    if head.bias is not None:
        logits += head.bias
    if head.scale != 1:
        logits *= head.scale
    slope = None
    if head.cap is not None:
        logits.div_(head.cap).tanh_()
        slope = 1 - logits.square()
        logits *= head.cap
    # The softmax, and then its gradient, take the place of the logits.
    targets = targets[:, None]
    logits -= logits.amax(1, keepdim=True)
    of_targets = logits.gather(1, targets)
    sums = logits.exp_().sum(1, keepdim=True)
    loss = (sums.log() - of_targets).sum()
    logits /= sums
    logits.scatter_add_(1, targets, torch.full_like(of_targets, -1))
    if slope is not None:
        logits *= slope
    if head.scale != 1:
        logits *= head.scale
    return loss, logits


def _multiply(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
        return
    # In another type, products are first made by themselves; not of the whole head at once.
    for some, of_left in zip(total.split(LOSS_SLICE), left.split(LOSS_SLICE), strict=True):
        some += of_left @ right


def summed_cross_entropy(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Sum over tokens of the cross-entropy between the head's logits and targets, in fp32.

    `hidden` is [tokens, width], `targets` [tokens]. With no token at all the sum is zero and so are all gradients:
    every process takes part in every collective.
    """
    total: Tensor = _ChunkedCrossEntropy.apply(hidden, targets, head, head.weight, head.bias)
    return total
