"""What a rule of the guide is, and what it is asked about."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.architecture import Architecture
from finetune_api.facts import DataFacts, Finding, ModelFacts, Severity
from finetune_api.memory import memory
from finetune_api.recipe import Recipe
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

    @property
    def parameters(self) -> int | None:
        """Weights of the model."""
        return None if self.model is None else self.model.architecture.parameters

    @property
    def judging(self) -> str:
        """To stand behind a statement about the model: where its size is a guess, that it is one."""
        guessed = self.model is not None and self.model.guessed_from is not None
        return ", judging by the model's name" if guessed else ""

    @property
    def need(self) -> int | None:
        """Bytes per GPU at the peak."""
        return None if self.plan.memory_per_gpu is None else self.plan.memory_per_gpu.estimate

    def need_with_lora(self, **changes: Any) -> int | None:
        """Bytes per GPU at the peak if these fields of the lora block were different."""
        lora = self.recipe.lora.model_copy(update=changes)
        return self._need(replace(self.recipe, lora=lora))

    def need_with_ratio(self, ratio: float) -> int | None:
        """Bytes per GPU at the peak with another unfreezeRankRatio."""
        osft = self.recipe.osft.model_copy(update={"unfreeze_rank_ratio": ratio})
        return self._need(replace(self.recipe, osft=osft))

    def _need(self, changed: Recipe) -> int | None:
        if self.model is None:
            return None
        longest = self.plan.max_seq_len or self.model.assumed_length
        tokens = self.plan.max_tokens_per_gpu or longest
        return memory(changed, self.model.architecture, tokens=tokens, longest=longest).estimate

    def fits(self, need: int | None) -> bool:
        """Whether so many bytes are known to fit a GPU, with a margin for what an estimate may miss."""
        usable = self.recipe.usable_gpu_memory
        return need is not None and usable is not None and need <= usable

    def exceeds(self, need: int | None) -> bool:
        """Whether so many bytes are known not to fit a GPU."""
        usable = self.recipe.usable_gpu_memory
        return need is not None and usable is not None and need > usable


def none_of(idle: Sequence[str], architecture: Architecture) -> str | None:
    """What to tell about names or patterns that match no layer; None where there are none such."""
    if not idle:
        return None
    shown = ", ".join(repr(name) for name in idle[:2]) + (
        f" and {len(idle) - 2} more" if len(idle) > 2 else ""
    )
    layers = ", ".join(dict.fromkeys(linear.name.rsplit(".", 1)[-1] for linear in architecture.linears))
    return f"{shown} matches no linear layer of this model; there are {layers}: correct or remove it"


Judge = Callable[[Case], str | None]


@dataclass(frozen=True)
class Guideline:
    """One rule of the guide."""

    id: str
    section: str
    """Where the guide says so."""
    severity: Severity
    field: str
    """Path of the field that it speaks about, from `spec` on."""
    statement: str
    """The rule, in a sentence or two."""
    judge: Judge
    """What to tell about this very job; None: nothing."""

    def __call__(self, case: Case) -> Finding | None:
        """What the rule finds."""
        message = self.judge(case)
        return None if message is None else Finding(self.id, self.severity, self.field, message)


def guideline(section: str, severity: Severity, field: str) -> Callable[[Judge], Guideline]:
    """Makes a rule of a function: its name is the rule's id, its docstring states the rule."""

    def made(judge: Judge) -> Guideline:
        name = getattr(judge, "__name__", "")
        statement = " ".join(inspect.getdoc(judge).split())  # type: ignore[union-attr]
        return Guideline(name.replace("_", "-"), section, severity, field, statement, judge)

    return made
