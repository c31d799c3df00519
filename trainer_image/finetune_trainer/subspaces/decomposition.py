"""Singular value decompositions of weight matrices, each made once and kept on the storage volume."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.subspaces.factor_cache import FactorCache
from finetune_trainer.subspaces.subspace import Factors

_log = logging.getLogger(__name__)

# Goes into every digest: what was kept in another form is not found.
_FORM = "singular value decomposition, 1"
# Long enough that signs of life are seldom in the way, short enough that they come often.
_HASHED_AT_ONCE = 16 << 20


class Decomposer:
    """Decomposes matrices, one at a time, or finds that it has been done: by another attempt, or by another job."""

    def __init__(self, directory: Path, writer: str, tick: Callable[[], None]) -> None:
        """`directory` keeps what was decomposed; `writer` names this process among all who write there.

        `tick` is called all along.
        """
        self._cache = FactorCache(directory, writer, tick)
        self._tick = tick
        self.computed = 0
        """Matrices that were decomposed here."""
        self.found = 0
        """Matrices whose factors were there already."""
        self.seconds = 0.0
        """What decomposing took."""

    @torch.no_grad()
    def factors(self, name: str, matrix: Tensor) -> tuple[str, Factors]:
        """A digest of a matrix's content, and its factors, on its device. `name` is that of the weight, for people.

        Raises InvalidConfigurationError if the matrix is not finite.
        """
        values = matrix.detach().to(torch.float32).contiguous()
        digest = self._digest(values)
        factors = self._cache.find(digest, values.device)
        if factors:
            self.found += 1
            _log.debug("%s: decomposed earlier (%s)", name, digest)
        else:
            factors = self._cache.keep(digest, self._decomposed(name, values))
        self._tick()
        return digest, factors

    def summary(self) -> str:
        """What was done so far, for people."""
        matrices = "1 matrix" if self.computed == 1 else f"{self.computed} matrices"
        return f"decomposed {matrices} in {self.seconds:.0f} s, {self.found} found in {self._cache.directory}"

    def _digest(self, values: Tensor) -> str:
        digest = hashlib.sha256(f"{_FORM}: {tuple(values.shape)}\n".encode())
        content = values.cpu().numpy().data.cast("B")
        for start in range(0, len(content), _HASHED_AT_ONCE):
            digest.update(content[start : start + _HASHED_AT_ONCE])
            self._tick()
        return digest.hexdigest()

    def _decomposed(self, name: str, values: Tensor) -> Factors:
        begin = time.monotonic()
        _expect_finite(name, values)
        try:
            factors = _svd(values, values.device)
        except torch.linalg.LinAlgError as error:
            _log.warning("%s: %s Once more in double precision.", name, error)
            factors = _svd(values.to("cpu", torch.float64), values.device)
        took = time.monotonic() - begin
        _log.debug("%s: decomposed in %.2f s", name, took)
        self.computed += 1
        self.seconds += took
        return factors


def _svd(matrix: Tensor, device: torch.device) -> Factors:
    # LAPACK takes up to twice as long with a wide matrix as with a tall one.
    wide = matrix.shape[0] < matrix.shape[1]
    u, s, v = torch.linalg.svd(matrix.T if wide else matrix, full_matrices=False)
    if wide:
        u, v = v.T, u.T
    # Some are laid out by columns. Products take another path then, with other roundings, than with what is read from
    # a file; a restart must compute the same to the bit. One after the other: these are large.
    u = u.to(device, torch.float32).clone(memory_format=torch.contiguous_format)
    v = v.to(device, torch.float32).clone(memory_format=torch.contiguous_format)
    return Factors(u, s.to(device, torch.float32), v)


def _expect_finite(name: str, values: Tensor) -> None:
    # Extremes are NaN where a value is, and take no memory, which a mask does.
    if all(extreme.isfinite() for extreme in values.aminmax()):
        return
    wrong = int((~values.isfinite()).sum())
    raise InvalidConfigurationError(
        f"{name}: {wrong} of its {values.numel()} values are not finite (NaN or infinite), so that it cannot be "
        "decomposed for osft: the model of spec.model is damaged, or was saved in a data type that is too small for "
        "it. Use another copy"
    )
