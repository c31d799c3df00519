"""Pure: the steps of a job's life that are no attempts.

A single pod prepares the data before the first one, another one merges the adapter after the last, and a third one
uploads what there is then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune_api import names
from finetune_api.recipe import Recipe
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.lifecycle import advice
from finetune_operator.status import conditions

# The reason of an attempt that trained to the end.
COMPLETED = "Completed"


@dataclass(frozen=True)
class Step:
    """What one of them does not share with the other."""

    number: int
    """What stands in the place of an attempt's number."""
    phase: Phase
    """That of the job meanwhile."""
    pod: str
    """Who takes it, in words."""
    to_come: str
    """What is to be done, as a sentence."""
    done: str
    """That it is done."""
    undone: str
    """That it could not be done."""
    advice: Callable[[FineTuneJob, FineTuneJobStatus], Mapping[str, str]]
    """What helps against its end, by the reason of the cause."""
    condition: str = conditions.PROGRESSING
    """The condition that tells how it goes."""
    is_repeated: bool = False
    """Whether another Job follows one that has given up; else the FineTuneJob fails with it."""


PREPARATION = Step(
    number=names.PREPARATION,
    phase=Phase.PREPARING,
    pod="the pod that prepares the data",
    to_come="the data are about to be prepared",
    done="the data are prepared",
    undone="the data could not be prepared",
    advice=advice.for_preparation,
)
MERGING = Step(
    number=names.MERGING,
    phase=Phase.MERGING,
    pod="the pod that merges the adapter",
    to_come="the adapter is about to be merged",
    done="the adapter is merged",
    undone="the adapter could not be merged",
    advice=advice.for_merging,
)
PUBLISHING = Step(
    number=names.PUBLISHING,
    phase=Phase.SUCCEEDED,
    pod="the pod that uploads the result",
    to_come="the result is about to be uploaded",
    done="the result is uploaded",
    undone="the result could not be uploaded",
    advice=advice.for_publishing,
    condition=conditions.PUBLISHED,
    is_repeated=True,
)
BY_NUMBER = {step.number: step for step in (PREPARATION, MERGING, PUBLISHING)}


def merges(job: FineTuneJob) -> bool:
    """Whether the job is not over with its training."""
    return Recipe.of_spec(job.spec).is_merged


def is_trained(status: FineTuneJobStatus) -> bool:
    """Whether it is on record that the model is trained: no attempt follows."""
    return bool(status.attempts) and status.attempts[-1].reason == COMPLETED
