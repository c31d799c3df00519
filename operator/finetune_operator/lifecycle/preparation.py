"""Pure: what the preparation of the data has found. How its pod comes to its end is told in single_pod.py."""

from finetune_api.evaluation import TRAIN
from finetune_api.status import FineTuneJobStatus
from finetune_operator.lifecycle import single_pod
from finetune_operator.lifecycle.outcome import Situation
from finetune_operator.observation.observed import GangJob
from finetune_operator.status import progress


def digests(situation: Situation) -> dict[str, str]:
    """What the gang finds the prepared data by, by their names; it prepares the others itself."""
    status = situation.status
    if situation.job.spec.dataset.prepare == "Inline":
        return {}
    found = {TRAIN: status.dataset.digest} if status.dataset is not None else {}
    return found | {data.name: data.digest for data in status.evaluation_data if data.digest is not None}


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
