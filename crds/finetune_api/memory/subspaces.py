"""Pure: what osft holds besides the model of sft, and what computing with it takes.

Each matrix is one process's: that has its factors, all in fp32, and does the work on it. It does so for one matrix at
a time, while the next one is on its way. The terms are what the trainer's subspace.py, exchange.py and decomposition.py
allocate. Of a matrix of N x M, u directions are trained and k are frozen. (GPT-2 and its kin have theirs transposed,
which makes little difference.)

When factors become matrices again, gradients are gone: that needs less than the update before it, and is not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.architecture import Architecture
from finetune_api.memory.cases import Case
from finetune_api.memory.widths import FP32
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import Factored, factored


@dataclass(frozen=True)
class Subspaces:
    """The matrices of a job as they concern one of its processes; none with other methods than osft."""

    matrices: tuple[Factored, ...]
    processes: int
    case: Case

    @classmethod
    def of(cls, recipe: Recipe, architecture: Architecture, case: Case) -> "Subspaces":
        """The matrices of which a recipe trains factors."""
        return cls(factored(recipe, architecture), recipe.world_size, case)

    @property
    def dense(self) -> int:
        """Numbers in the matrices themselves, of all processes: they follow from their factors, without optimizer."""
        return sum(each.count * each.dense for each in self.matrices)

    @property
    def factors(self) -> int:
        """Numbers in the factors of this process."""
        return self._share(lambda each: each.factors)

    @property
    def trained(self) -> int:
        """Numbers in those of them that are trained."""
        return self._share(lambda each: each.trained)

    @property
    def decomposing(self) -> int:
        """Bytes, besides its share of the model, when it decomposes a matrix and has the factors of the others."""
        others = 0 if self.case is Case.LOW else self.factors - self._most(lambda each: each.factors)
        # Alone, a process has the matrix in the model. Else the next one is there, as it is sent and as it comes, and
        # at the most what was sent of this one.
        beside = self.case + (self.case > 0) if self.processes > 1 else -1
        return FP32 * others + self._most(lambda each: decomposition(each) + FP32 * beside * each.dense)

    @property
    def pulling_back(self) -> int:
        """Bytes, besides all gradients of the model, when that of a matrix becomes those of its factors.

        First G V^T and, to be summed up, its products with U (2 N u); then the gradients of all factors, and how much
        of the frozen directions is in them (u (N + M) + k u). A gradient that is sent is given back: a process has one
        matrix more than before while one is on its way, and none where all have come.
        """

        def numbers(each: Factored) -> int:
            computing = max(2 * each.outputs * each.unfrozen, each.trained + each.frozen_rank * each.unfrozen)
            if self.processes == 1:
                return computing
            return self.case * each.dense + max(each.dense, computing)

        return FP32 * self._most(numbers)

    @property
    def measuring(self) -> int:
        """Bytes when the leak is measured: products of a matrix's frozen and trained directions, twice."""
        return FP32 * self._most(lambda each: 2 * each.frozen_rank * each.unfrozen)

    def _share(self, numbers: Callable[[Factored], int]) -> int:
        """Of all matrices, what the process has that has most: about its part, but at least one matrix."""
        largest = self._most(numbers)
        total = sum(each.count * numbers(each) for each in self.matrices)
        part = total // self.processes
        return min(total, part + largest) if self.case is Case.HIGH else max(part, largest)

    def _most(self, of: Callable[[Factored], int]) -> int:
        return max(map(of, self.matrices), default=0)


def decomposition(matrix: Factored) -> int:
    """Bytes at the peak of the singular value decomposition of a matrix.

    In fp32, for N x M with R = min(N, M): the matrix and the copy that LAPACK destroys (2 N M), the factors
    (R (N + M) + R), and the workspace of its gesdd (4 R^2 + 7 R, and 8 R integers).
    """
    rank = matrix.rank
    return FP32 * (2 * matrix.dense + matrix.factors + 4 * rank * rank + 15 * rank)
