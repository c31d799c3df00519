"""Peak memory of a loss with its gradients: `python -m benchmarks.trainer.loss_memory KIND`.

Each kind runs in a process of its own, and what is counted is the growth of its resident memory over what it held
before any of the tensors were made, so neither Python nor torch is in it.

The floor is what no loss can do without: hidden states and head, and a gradient for each of the two.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.memory import Growth
from benchmarks.trainer.worker import environment

# The last layer of Llama-3.2-1B with a vocabulary of 32,000.
TOKENS, WIDTH, VOCABULARY = 4096, 2048, 32_000
KINDS = ("floor", "ours", "full")


def measure(kind: str, threads: int) -> int:
    """Bytes that the loss of a kind takes at its peak."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.trainer.loss_memory", kind],
        env={**os.environ, **environment(threads)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    peak: int = json.loads(output.splitlines()[-1])
    return peak


def main() -> None:
    """Measure one kind and print the bytes."""
    import torch
    from torch import Tensor
    from torch.nn import functional

    from finetune_trainer.loss import Head, summed_cross_entropy

    def floor(hidden: Tensor, head: Tensor, targets: Tensor) -> None:
        hidden.grad, head.grad = torch.full_like(hidden, 1.0), torch.full_like(head, 1.0)

    def full(hidden: Tensor, head: Tensor, targets: Tensor) -> None:
        functional.cross_entropy(functional.linear(hidden, head), targets, reduction="sum").backward()

    def ours(hidden: Tensor, head: Tensor, targets: Tensor) -> None:
        summed_cross_entropy(hidden, targets, Head(head)).backward()

    work: Callable[[Tensor, Tensor, Tensor], None] = {"floor": floor, "full": full, "ours": ours}[sys.argv[1]]

    def run(tokens: int, width: int, vocabulary: int) -> None:
        hidden = torch.randn(tokens, width, requires_grad=True)
        head = torch.randn(vocabulary, width).mul_(width**-0.5).requires_grad_()
        work(hidden, head, torch.randint(vocabulary, (tokens,)))
        assert hidden.grad is not None
        assert head.grad is not None

    # Threads and workspaces of the libraries are there before it counts.
    run(64, 64, 64)
    growth = Growth()
    run(TOKENS, WIDTH, VOCABULARY)
    print(growth.at_peak())


if __name__ == "__main__":
    main()
