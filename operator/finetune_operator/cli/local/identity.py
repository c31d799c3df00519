"""What makes two runs on this machine the same run."""

import json
import uuid

from finetune_api import names
from finetune_api.spec import FineTuneJob

# What decides the result. Nodes and GPUs do not: training goes on from a checkpoint on any number of them.
DECISIVE = {"method", "model", "dataset", "hyperparameters", "osft", "lora", "evaluation"}


def run_uid(job: FineTuneJob) -> str:
    """The identity that the API server would have given: the same for the same job, another for another one."""
    described = {
        "namespace": job.metadata.namespace,
        "name": job.metadata.name,
        "spec": job.spec.model_dump(mode="json", by_alias=True, include=DECISIVE),
    }
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{names.GROUP}/{json.dumps(described, sort_keys=True)}"))
