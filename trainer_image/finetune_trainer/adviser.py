"""What the rule book says of the run by what its steps and evaluations have shown, told in the plan and in the log."""

import logging
from collections.abc import Iterable, Sequence

from finetune_api import guide
from finetune_api.guide import StepLoss
from finetune_api.recipe import Recipe
from finetune_api.report import Metrics
from finetune_api.scores import Evaluated
from finetune_api.status import Advice, Plan
from finetune_trainer.planning import ExactPlan
from finetune_trainer.reports.reporter import Reporter

_log = logging.getLogger(__name__)

_RULES = frozenset(rule.id for rule in guide.WHILE_TRAINING)


class Adviser:
    """Hears of every step and evaluation, and asks the rules at the end of each epoch, and after each evaluation.

    For rank 0.
    """

    def __init__(self, recipe: Recipe, plan: ExactPlan, reporter: Reporter) -> None:
        self._recipe, self._plan, self._reporter = recipe, plan, reporter
        self._steps: list[StepLoss] = []
        self._evaluations: list[Evaluated] = []
        self._said: list[Advice] = []

    def recall(self, before: Iterable[Metrics], evaluations: Sequence[Evaluated]) -> None:
        """Go on from the steps and evaluations that the run has made before, and say what those show."""
        self._steps = [step for metrics in before if (step := _step(metrics))]
        self._evaluations = list(evaluations)
        self._say()

    def hear(self, metrics: Metrics) -> None:
        """Take note of a step, and say what there is to say at the end of an epoch."""
        if step := _step(metrics):
            self._steps.append(step)
        if len(self._steps) % self._plan.steps_per_epoch == 0:
            self._say()

    def judge(self, evaluations: Sequence[Evaluated]) -> None:
        """Take note of all evaluations of the run so far, and say what there is to say."""
        self._evaluations = list(evaluations)
        self._say()

    def advised(self, plan: ExactPlan) -> ExactPlan:
        """A plan made anew, with what was said of the run."""
        self._plan = _with(plan, self._said)
        return self._plan

    def _say(self) -> None:
        found = guide.advise_on_course(self._recipe, self._plan, self._steps, self._evaluations)
        said = [Advice(rule=each.rule, field=each.field, message=each.message) for each in found]
        known = {advice.rule for advice in self._said}
        for advice in said:
            if advice.rule not in known:
                _log.warning("after step %d: %s: %s", len(self._steps), advice.field, advice.message)
        self._said = said
        plan = _with(self._plan, said)
        if plan != self._plan:
            self._plan = plan
            self._reporter.update(urgent=True, plan=plan)


def lasting(plan: ExactPlan, before: Plan | None) -> ExactPlan:
    """A plan made at the start of an attempt, with what the one `before` says of the course of the run.

    It stays until this attempt has found out which steps it goes on from.
    """
    return _with(plan, [] if before is None else [each for each in before.warnings if each.rule in _RULES])


def _with(plan: ExactPlan, said: list[Advice]) -> ExactPlan:
    others = [advice for advice in plan.warnings if advice.rule not in _RULES]
    return plan.model_copy(update={"warnings": [*others, *said]})


def _step(metrics: Metrics) -> StepLoss | None:
    # Lines of older trainers may lack something.
    if metrics.loss is None or metrics.learning_rate is None or not metrics.samples:
        return None
    return StepLoss(metrics.loss, metrics.learning_rate, metrics.samples)
