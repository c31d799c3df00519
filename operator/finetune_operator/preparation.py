"""Pure: what the preparation of the data has found. How its pod comes to its end is told in single_pod.py."""

from finetune_api.status import FineTuneJobStatus
from finetune_operator import progress, single_pod
from finetune_operator.observed import GangJob
from finetune_operator.outcome import Situation


def digest(situation: Situation) -> str | None:
    """What the gang finds the prepared data by; None where it prepares them itself."""
    dataset = situation.status.dataset
    beforehand = situation.job.spec.dataset.prepare == "Job"
    return dataset.digest if dataset is not None and beforehand else None


def findings(situation: Situation, job: GangJob) -> FineTuneJobStatus:
    """The status with what a preparation that succeeded tells of plan and data.

    If nothing is left of what it told, the gang opens the same data, and tells the same.
    """
    status = situation.status
    posted, last_words = single_pod.told(situation, job)
    if posted is not None:
        status = progress.with_findings(status, posted)
    if last_words is not None:
        status = progress.with_findings(status, last_words, final=True)
    return status
