"""Orthogonal subspace fine-tuning: of each matrix the weakest directions are trained, orthogonal to the others.

It is no other kind of layer. The model computes with whole matrices, as in sft, and a token costs what it costs there.
What is special happens once in each optimizer step: the gradients of the matrices become those of their factors, and
the changed factors make the matrices anew (see subspaces.subspace). Layers that compute with the factors would do that
work for every token: x W_high^T + ((x V_low^T) S_low) U_low^T takes 2 NM + 3 u (N + M) multiplications for a token's
forward and backward pass, where a dense layer takes 3 NM; that is less only while u (N + M) < NM / 3, for a square
matrix below a ratio of 1/6, and 1.67 times as much at 0.5.

Each matrix is one process's: it has the factors and their moments, and does the work. What is no target is trained as
in sft.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from finetune_api.runconfig import RunConfig
from finetune_api.status import MAX_LISTED_MATRICES, DecomposedMatrices, Subspaces
from finetune_api.trained_weights import unfreeze_rank_ratio
from finetune_trainer.distributed import Gang
from finetune_trainer.methods import sft
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel, skeleton
from finetune_trainer.planning import ExactPlan
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.stopwatch import Communicating
from finetune_trainer.subspaces.deal import deal, decomposition_cost
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.exchange import Exchange
from finetune_trainer.subspaces.subspace import Subspace
from finetune_trainer.subspaces.targets import Target, find_targets, trained_numbers

_log = logging.getLogger(__name__)

_RATIO = "spec.osft.unfreezeRankRatio"


class Osft(Parametrization):
    """A model whose target matrices are made of factors."""

    def __init__(
        self,
        model: TrainableModel,
        targets: Sequence[Target],
        exchange: Exchange,
        subspaces: Mapping[int, Subspace],
        base: str,
    ) -> None:
        """`subspaces` are those of the targets that this process owns, by their numbers; `base` is a digest of all."""
        super().__init__(model)
        self._targets = targets
        self._exchange = exchange
        self._subspaces = subspaces
        dense = {id(target.weight) for target in targets}
        self.shared = {name: weight for name, weight in self.shared.items() if id(weight) not in dense}
        self.own = {
            f"hf.{targets[number].name}.{factor}": parameter
            for number, subspace in subspaces.items()
            for factor, parameter in subspace.parameters.items()
        }
        self.base = base

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """Those that are divided among processes, and those that are not: AdamW cannot take both together."""
        return [list(self.shared.values()), list(self.own.values())]

    def pull_back(self, communicating: Communicating = nullcontext) -> None:
        """Turn the gradients of the matrices into those of their factors."""

        def gradient(number: int) -> Tensor:
            return self._targets[number].take_gradient()

        with _tensor_cores():
            for number, whole in self._exchange.collect(gradient, communicating):
                self._subspaces[number].pull_back(whole)
                # Its room is for the next one.
                del whole

    def constrain(self) -> None:
        """Project the factors."""
        for subspace in self._subspaces.values():
            subspace.project()

    def push_forward(self, communicating: Communicating = nullcontext) -> None:
        """Make the matrices of their factors."""
        self._exchange.spread(
            lambda number: self._subspaces[number].matrix(),
            lambda number: self._targets[number].shard,
            communicating,
        )

    def leak(self) -> Tensor:
        """The largest of this process's subspaces."""
        leaks = [subspace.leak() for subspace in self._subspaces.values()]
        return torch.stack(leaks).amax() if leaks else self._targets[0].shard.new_zeros(())


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """Let GPUs round what they multiply to TF32, about seven times as fast as fp32.

    Gradients come of passes in bf16, and lose nothing by it. What keeps trained and frozen directions apart, and the
    matrices that are made of them, are computed in fp32.
    """
    multiplication = torch.backends.cuda.matmul
    before = multiplication.fp32_precision
    multiplication.fp32_precision = "tf32"
    try:
        yield
    finally:
        multiplication.fp32_precision = before


def trainable_parameters(config: RunConfig, model_config: PreTrainedConfig) -> int:
    """Number of weights that training changes."""
    hf = skeleton(model_config)
    recipe = config.recipe
    targets = find_targets(hf, recipe.osft.target_patterns, unfreeze_rank_ratio(recipe))
    return trained_numbers(hf.parameters(), targets)


def parametrize(
    config: RunConfig, model_config: PreTrainedConfig, gang: Gang, plan: ExactPlan, reporter: Reporter
) -> Osft:
    """The model to train, with its matrices decomposed. Every process calls it.

    Raises InvalidConfigurationError where a pattern matches no layer, or a weight cannot be decomposed.
    """
    model = sft.parametrize(config, model_config, gang, plan, reporter).model
    # What the guide chose when the run began counts, whatever it would choose now.
    chosen = plan.choice(_RATIO)
    ratio = chosen.value if chosen else unfreeze_rank_ratio(config.recipe)
    targets = find_targets(model.hf, config.recipe.osft.target_patterns, ratio)
    told = _told(model, targets)
    reporter.update(urgent=True, subspaces=told)
    decomposer = Decomposer(Path(config.locations.decompositions), f"{config.uid}-{gang.rank}", reporter.tick)
    made = decompose(
        model,
        targets,
        decomposer,
        gang,
        lambda done: reporter.tick(subspaces=told.model_copy(update={"decomposed": done})),
    )
    _log.info("%s", decomposer.summary())
    reporter.update(urgent=True, subspaces=told.model_copy(update={"decomposed": told.of}))
    return made


def decompose(
    model: TrainableModel,
    targets: Sequence[Target],
    decomposer: Decomposer,
    gang: Gang | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Osft:
    """Decompose a model's targets, and make them of their factors. Every process of the gang, if there is one, does so.

    `tell` hears how many are decomposed.
    """
    rank, world_size = (gang.rank, gang.world_size) if gang else (0, 1)
    owners = deal([decomposition_cost(*target.shape) for target in targets], world_size)
    exchange = Exchange([target.shape for target in targets], owners, rank)
    subspaces: dict[int, Subspace] = {}
    digests: dict[int, str] = {}
    for number, matrix in exchange.collect(lambda number: targets[number].shard, nullcontext):
        target = targets[number]
        digests[number], factors = decomposer.factors(target.name, matrix)
        subspaces[number] = Subspace(factors, target.matrix.unfrozen)
        # Their room is for the next ones.
        del matrix, factors
        # The others are about as far.
        tell(sum(min(len(subspaces), len(owned)) for owned in owners))
    everyone = gang.collect(digests) if gang else [digests]
    by_number = sorted((number, digest) for theirs in everyone for number, digest in theirs.items())
    base = sha256("".join(digest for _, digest in by_number).encode()).hexdigest()
    made = Osft(model, targets, exchange, subspaces, base)
    # The product of the factors is not to the last bit what they were made of; after a restart there is no other.
    made.push_forward()
    return made


def _told(model: TrainableModel, targets: Sequence[Target]) -> Subspaces:
    """What is to be told of the matrices before any is decomposed."""
    kinds = Counter((target.module, target.matrix) for target in targets)
    by_size = sorted(kinds.items(), key=lambda kind: -kind[0][1].dense * kind[1])
    trained = trained_numbers(model.parameters(), targets)
    frozen = sum(target.matrix.factors - target.matrix.trained for target in targets)
    return Subspaces(
        decomposed=0,
        of=len(targets),
        matrices=[
            DecomposedMatrices(module=module, count=count, directions=matrix.rank, trained=matrix.unfrozen)
            for (module, matrix), count in by_size[:MAX_LISTED_MATRICES]
        ],
        trainable_share=trained / (trained + frozen),
    )
