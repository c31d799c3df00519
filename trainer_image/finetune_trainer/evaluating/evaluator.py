"""How a model in training does on every data set of the run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from finetune_api.evaluation import Generate
from finetune_api.runconfig import RunConfig
from finetune_api.scores import SetScore
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.evaluating.answers import answers
from finetune_trainer.evaluating.losses import measure
from finetune_trainer.evaluating.matching import matches, problem
from finetune_trainer.evaluating.mode import judging
from finetune_trainer.evaluating.passes import AskedToStopError, Passes
from finetune_trainer.evaluating.writer import Writer
from finetune_trainer.inputs import Inputs
from finetune_trainer.model import TrainableModel
from finetune_trainer.prepare.arrow import Prepared, Samples
from finetune_trainer.prepare.questions import Question
from finetune_trainer.step import Guard

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedSet:
    """Data that a model is judged by."""

    name: str
    field: str
    """What the spec calls it."""
    samples: Samples
    questions: Sequence[Question] = ()
    generate: Generate | None = None
    """How the questions are answered and compared."""


def _unguarded(_: Inputs) -> AbstractContextManager[None]:
    return nullcontext()


class Evaluator:
    """Judges a model, together with the other processes of the gang."""

    def __init__(
        self,
        gang: Gang,
        model: TrainableModel,
        sets: Sequence[EvaluatedSet],
        *,
        directory: Path,
        context_length: int,
        tick: Callable[[], None],
        asked_to_stop: Callable[[], bool],
    ) -> None:
        """`directory` is the base model's, and has its tokenizer. `tick` is called after each pass.

        `asked_to_stop` is asked then, too; it has the same answer in all processes. Raises InvalidDataError where
        nothing can be compared with a reference.
        """
        self._gang, self._model, self._sets = gang, model, sets
        self._context_length = context_length
        self._tick, self._asked_to_stop = tick, asked_to_stop
        self._writer = Writer(directory) if any(one.generate for one in sets) else None
        for one in sets:
            _check(one)

    @classmethod
    def of(
        cls,
        config: RunConfig,
        gang: Gang,
        model: TrainableModel,
        data: Mapping[str, Prepared],
        *,
        context_length: int,
        tick: Callable[[], None],
        asked_to_stop: Callable[[], bool],
    ) -> Self:
        """For a run, on `data`, its prepared data sets by their names."""
        stated = config.data_sets
        sets = []
        for name, prepared in data.items():
            # What is held back of the training data is nowhere in the spec.
            field, generate = (
                (stated[name].field, stated[name].generate)
                if name in stated
                else ("spec.dataset.validationSplit", None)
            )
            sets.append(EvaluatedSet(name, field, prepared.samples, prepared.questions, generate))
        return cls(
            gang,
            model,
            sets,
            directory=Path(config.locations.model),
            context_length=context_length,
            tick=tick,
            asked_to_stop=asked_to_stop,
        )

    def evaluate(self, budget: int, guarding: Guard = _unguarded) -> list[SetScore] | None:
        """The scores of all sets, the same on every process; None when some process was asked to stop.

        To be called between optimizer steps. A pass has at most `budget` tokens, but for samples that are longer, and
        happens inside of `guarding`.
        """
        passes = Passes(
            self._gang, self._model, budget, guarding, tick=self._tick, asked_to_stop=self._asked_to_stop
        )
        try:
            with judging(self._model):
                return [self._score(passes, one) for one in self._sets]
        except AskedToStopError:
            return None

    def _score(self, passes: Passes, one: EvaluatedSet) -> SetScore:
        loss, hits = measure(passes, one.samples)
        return SetScore.of(
            one.name,
            loss_sum=loss,
            correct=hits,
            tokens=int(one.samples.loss_tokens.sum()),
            answered=self._answered(passes, one),
        )

    def _answered(self, passes: Passes, one: EvaluatedSet) -> float | None:
        """The share of the questions whose answers match."""
        if one.generate is None or not one.questions:
            return None
        assert self._writer is not None
        mine = one.questions[self._gang.rank :: self._gang.world_size]
        written = answers(
            passes,
            [question.prompt for question in mine],
            longest=one.generate.max_new_tokens,
            ends=self._writer.ends,
            context_length=self._context_length,
        )
        right = 0
        for question, answer in zip(mine, map(self._writer.text, written), strict=True):
            try:
                right += matches(one.generate, answer, question.reference)
            except TimeoutError as error:
                # A pattern that one answer brings out is no reason to lose a run, and its other answers count.
                _log.warning("%s, so that counts as no match", _problem(one, question, str(error)))
        return sum(self._gang.collect(right)) / len(one.questions)


def _check(one: EvaluatedSet) -> None:
    if one.generate is None:
        return
    for question in one.questions:
        if found := problem(one.generate, question.reference):
            raise InvalidDataError(_problem(one, question, found))


def _problem(one: EvaluatedSet, question: Question, said: str) -> str:
    # People count rows from 1.
    return f"{one.field}: row {question.row + 1}: its reference {said}"
