"""Pure: whose log is wanted."""

from typing import Literal

from finetune_api import names
from finetune_api.spec import FineTuneJob
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator.cli.errors import CommandError
from finetune_operator.lifecycle import steps

StepName = Literal["prepare", "merge", "publish"]
STEPS: dict[str, int] = {"prepare": names.PREPARATION, "merge": names.MERGING, "publish": names.PUBLISHING}


def chosen(
    status: FineTuneJobStatus, attempt: int | None, step: StepName | None, *, previous: bool = False
) -> int:
    """The number of the attempt, or that of the step, whose log is to be shown.

    By default what failed, if the job has failed; else what runs, or ran last. Raises CommandError where there is no
    such attempt.
    """
    if step is not None:
        return STEPS[step]
    known = [one.number for one in status.attempts]
    number = attempt if attempt is not None else _default(status)
    if previous:
        number = number - 1 if number > 0 else known[-1] if known and number < 0 else 0
    if number > 0 and number not in known:
        there = f"there are {', '.join(map(str, known))}" if known else "there is none yet"
        raise CommandError(f"there is no attempt {number}: {there}")
    if number == 0 and (previous or attempt is not None):
        raise CommandError(
            "there is no attempt before the first one; --step prepare has the preparation of the data"
        )
    return number


def _default(status: FineTuneJobStatus) -> int:
    if not status.attempts:
        return names.PREPARATION
    if status.phase is Phase.MERGING or (status.phase is Phase.FAILED and steps.is_trained(status)):
        return names.MERGING
    return status.attempts[-1].number


def called(number: int) -> str:
    """An attempt, or a step, for people."""
    words = {
        names.PREPARATION: "the preparation",
        names.MERGING: "the merging",
        names.PUBLISHING: "the upload",
    }
    return words.get(number, f"attempt {number}")


def attempt_of(status: FineTuneJobStatus, number: int) -> Attempt | None:
    """What the status has of an attempt; None of a step."""
    return next((one for one in status.attempts if one.number == number), None)


def on_volume(job: FineTuneJob, number: int, rank: int | None) -> str:
    """Where all that was printed lies, when the pods are gone."""
    node = "R" if rank is None else str(rank)
    if number in steps.BY_NUMBER:
        node = "0"
    return f"{job.storage_path}/{names.attempt_logs(number)}/{names.node_log(node)}"
