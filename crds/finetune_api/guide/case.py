"""What a rule is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.facts import DataFacts, ModelFacts
from finetune_api.guide.choices import judging
from finetune_api.guide.loss_curve import StepLoss
from finetune_api.memory import Mode, estimated, leanest
from finetune_api.recipe import Recipe
from finetune_api.scores import Evaluated
from finetune_api.status import Plan


@dataclass(frozen=True)
class Case:
    """A job as rules see it: what is stated, what was settled, and what is known."""

    recipe: Recipe
    plan: Plan
    model: ModelFacts | None
    data: DataFacts | None
    remedies: Sequence[str] = ()
    """Changes after which the job fits its GPUs, the mildest first."""
    steps: Sequence[StepLoss] = ()
    """What the run has shown, from its first step on; nothing before it trains."""
    evaluations: Sequence[Evaluated] = ()
    """And what its evaluations have, in the order of their steps."""

    @property
    def parameters(self) -> int | None:
        """Weights of the model."""
        return None if self.model is None else self.model.architecture.parameters

    @property
    def judging(self) -> str:
        """To stand behind what is said of the model: where its size is a guess, that it is one."""
        return judging(self.model)

    @property
    def need(self) -> int | None:
        """Bytes per GPU at the peak."""
        return None if self.plan.memory_per_gpu is None else self.plan.memory_per_gpu.estimate

    @property
    def is_short(self) -> bool:
        """Whether the upper end of the estimate exceeds a GPU, and no smaller micro-batch was left to choose."""
        estimate, limit, tokens = (
            self.plan.memory_per_gpu,
            self.recipe.gpu_memory,
            self.plan.max_tokens_per_gpu,
        )
        if not self.recipe.on_gpu or estimate is None or limit is None:
            return False
        chosen = self.recipe.hyperparameters.max_tokens_per_gpu is None
        smaller = chosen and tokens is not None and tokens > (self.plan.max_seq_len or tokens)
        return estimate.high > limit and not smaller

    def with_lora(self, **changes: Any) -> Recipe:
        """The recipe with other values in its lora block."""
        return replace(self.recipe, lora=self.recipe.lora.model_copy(update=changes))

    def with_ratio(self, ratio: float) -> Recipe:
        """The recipe with another unfreezeRankRatio."""
        return replace(self.recipe, osft=self.recipe.osft.model_copy(update={"unfreeze_rank_ratio": ratio}))

    def need_of(self, changed: Recipe) -> int | None:
        """Bytes per GPU at the peak of another recipe with the same micro-batches, carried out in the same way."""
        mode = Mode(bool(self.plan.activation_checkpointing), bool(self.plan.accumulate_locally))
        return self._need(changed, self.plan.max_tokens_per_gpu, mode)

    def least_need_of(self, changed: Recipe) -> int | None:
        """Bytes per GPU at the peak of another recipe with the least micro-batches and mode that it can have."""
        return self._need(changed, self.recipe.hyperparameters.max_tokens_per_gpu, leanest(changed))

    def _need(self, changed: Recipe, tokens: int | None, mode: Mode) -> int | None:
        if self.model is None:
            return None
        longest = self.plan.max_seq_len or self.model.assumed_length
        return estimated(changed, self.model.architecture, mode, tokens=tokens or longest, longest=longest)

    def fits(self, need: int | None) -> bool:
        """Whether so many bytes are known to fit a GPU, with a margin for what an estimate may miss."""
        return need is not None and self._usable is not None and need <= self._usable

    def exceeds(self, need: int | None) -> bool:
        """Whether so many bytes are known not to fit a GPU."""
        return need is not None and self._usable is not None and need > self._usable

    @property
    def _usable(self) -> int | None:
        return self.recipe.usable_gpu_memory if self.recipe.on_gpu else None
