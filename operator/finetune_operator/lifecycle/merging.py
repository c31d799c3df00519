"""Pure: how a job ends whose adapter has been merged. How its pod comes to its end is told in single_pod.py."""

from finetune_api import names
from finetune_api.status import Phase
from finetune_operator.lifecycle import single_pod
from finetune_operator.lifecycle.outcome import Outcome, Situation, write
from finetune_operator.lifecycle.steps import COMPLETED
from finetune_operator.observation.observed import GangJob
from finetune_operator.status import evaluation
from finetune_operator.status.conditions import Standing


def succeeded(situation: Situation, job: GangJob) -> Outcome:
    """The job is done, and its output has both the adapter and the model."""
    last_words_first = reversed(single_pod.told(situation, job))
    output = next(
        (report.output for report in last_words_first if report is not None and report.output is not None),
        situation.status.output,
    )
    status = situation.status.model_copy(
        update={"phase": Phase.SUCCEEDED, "output": output, "completion_time": situation.now}
    )
    directory, claim = situation.job.storage_path, situation.job.storage_claim
    message = (
        f"the merged model is in {directory}/{names.MERGED_DIR}, and the adapter in {directory}/{names.OUTPUT_DIR}, "
        f"on claim {claim}"
    )
    message = evaluation.with_outcome(message, status.evaluation)
    return write(situation.subject, status, Standing.SUCCEEDED, COMPLETED, message, situation.now)
