"""What is made of logits, token cross-entropy above all, without ever holding those of more than a chunk of tokens.

A vocabulary of 150,000 makes the logits of 16,384 tokens 10 GB in fp32. The gradient of each chunk is computed
together with its loss, in the place of its logits; only tokens that loss is taken on get logits at all.
"""

from collections.abc import Iterator
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
        for part, logits in _chunks(hidden, head):
            loss, towards = _differentiate(logits, targets[part], head)
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


def _chunks(hidden: Tensor, head: Head) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of tokens and their logits, each in the place of those before."""
    chunk = LOSS_CHUNK[hidden.element_size()]
    # One for all chunks: memory that is given back in between is not always found again.
    buffer = hidden.new_empty(min(chunk, len(hidden)), len(head.weight), dtype=torch.float32)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        logits = buffer[: len(hidden[part])]
        _multiply(hidden[part], head.weight.t(), out=logits)
        if head.bias is not None:
            logits += head.bias
        if head.scale != 1:
            logits *= head.scale
        if head.cap is not None:
            logits.div_(head.cap).tanh_().mul_(head.cap)
        yield part, logits


def _differentiate(logits: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The loss of a chunk, and its gradient towards what the linear layer puts out, in the place of the logits."""
    slope = None if head.cap is None else (logits / head.cap).square_().neg_().add_(1)
    losses, sums = _exponentiate(logits, targets)
    # The softmax, and then its gradient.
    logits /= sums
    targets = targets[:, None]
    logits.scatter_add_(1, targets, torch.full_like(targets, -1, dtype=logits.dtype))
    if slope is not None:
        logits *= slope
    if head.scale != 1:
        logits *= head.scale
    return losses.sum(), logits


def _exponentiate(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each token, [n, 1], and the sum of its row, [n, 1], once exponentials took the place of logits."""
    logits -= logits.amax(1, keepdim=True)
    of_targets = logits.gather(1, targets[:, None])
    sums = logits.exp_().sum(1, keepdim=True)
    return sums.log() - of_targets, sums


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


def loss_and_hits(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """That sum, and of how many tokens the target has the largest logit: [2], in fp64, without gradients."""
    totals = hidden.new_zeros(2, dtype=torch.float64)
    for part, logits in _chunks(hidden, head):
        totals[1] += (logits.argmax(1) == targets[part]).sum()
        losses, _ = _exponentiate(logits, targets[part])
        totals[0] += losses.sum(dtype=torch.float64)
    return totals


def most_probable(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """The tokens of the largest logits, [tokens], without gradients; `targets` do not matter."""
    found = [logits.argmax(1) for _, logits in _chunks(hidden, head)]
    return torch.cat(found) if found else hidden.new_empty(0, dtype=torch.int64)
