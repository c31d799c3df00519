"""How a run is judged: on which data, how often, and when that ends it."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.model import ListMap, Rule, SpecModel
from finetune_api.sources import Columns, DataSource

# What the data of spec.dataset are called beside the sets of spec.evaluation, and the base model among all inputs.
TRAIN = "train"
VALIDATION = "validation"
MODEL = "model"
MAX_SETS = 16


class Generate(SpecModel):
    """Answers are generated and compared with the last message of each conversation, the reference."""

    match: Literal["Exact", "Regex"] = "Exact"
    """Exact: the answer is the reference, but for white space around it. Regex: the reference is a regular expression
    that is found in the answer."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 64
    """Longest answer. The most probable token is taken each time."""
    max_samples: Annotated[int, Field(ge=1, le=1000)] = 100
    """How many of the conversations are answered, the first ones."""


class EvaluationSet(DataSource):
    """A data set that is not trained on: for the new skill, or for one to keep, so that forgetting is seen."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """What the status calls it."""
    columns: Columns = Columns()
    """Names of columns where they are not the usual ones."""
    generate: Generate | None = None
    """Compare generated answers too."""

    rules = (
        *DataSource.rules,
        Rule(
            cel=f"!(self.name in ['{TRAIN}', '{VALIDATION}', '{MODEL}'])",
            message=f"name must not be {TRAIN}, {VALIDATION} or {MODEL}, which are other inputs of the job: choose "
            "another",
            holds=lambda found: found.name not in (TRAIN, VALIDATION, MODEL),
        ),
    )


class EarlyStopping(SpecModel):
    """Training ends when the validation loss no longer falls."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without an improvement after which training ends."""
    min_delta: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """An improvement is a validation loss that is lower than the best one by more than this."""


class Evaluation(SpecModel):
    """How a run is judged. With validation data or sets, it is always judged once it has ended."""

    baseline: bool = True
    """Evaluate the base model before the first step: without that, nobody knows what training changed."""
    every_epoch: bool = True
    """Evaluate at the end of every epoch."""
    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Evaluate after every so many optimizer steps, too."""
    sets: Annotated[list[EvaluationSet], Field(max_length=MAX_SETS), ListMap("name")] = []
    """More data sets to evaluate on."""
    early_stopping: EarlyStopping | None = None
    """End training before its last step; needs validation data."""

    rules = (
        Rule(
            cel="!has(self.earlyStopping) || self.everyEpoch || has(self.everySteps)",
            message="earlyStopping needs evaluations while training: set everyEpoch: true, or everySteps",
            holds=lambda evaluation: (
                evaluation.early_stopping is None
                or evaluation.every_epoch
                or evaluation.every_steps is not None
            ),
        ),
    )
