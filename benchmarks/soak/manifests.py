"""The FineTuneJobs of the soak, and the inputs that they share."""

from pathlib import Path
from typing import Any

from benchmarks.soak.plan import Ending, JobPlan
from e2e import jobs
from tiny import poison, save_chat_data, save_tiny_model

SAMPLES = 240
_BROKEN = "broken.jsonl"
_POISONED = "poisoned"


def manifest(plan: JobPlan) -> dict[str, Any]:
    """The FineTuneJob of a plan."""
    data = _BROKEN if plan.ending is Ending.INVALID_DATA else "train.jsonl"
    made = jobs.manifest(plan.name, nodes=plan.nodes, data=data, numEpochs=plan.epochs)
    spec = made["spec"]
    spec["method"] = plan.method
    spec["checkpoints"] = {"everySteps": 10}
    # Faults are many, and no job is to fail of them.
    spec["failurePolicy"] = {"maxRestarts": 100, "maxDisruptions": 100, "gracePeriodSeconds": 30}
    if plan.method == "osft":
        spec["osft"] = {"unfreezeRankRatio": 0.5}
    if plan.method == "lora":
        spec["lora"] = {"r": 4, "alpha": 8, "mergeAdapter": plan.merged}
    if plan.inline:
        spec["dataset"]["prepare"] = "Inline"
    if plan.evaluated:
        spec["dataset"]["validationSplit"] = 0.2
        spec["evaluation"] = {"earlyStopping": {"patience": 1}}
    if plan.ending is Ending.LOSS_NOT_FINITE:
        spec["model"]["volume"]["path"] = _POISONED
    if plan.ending is Ending.INVALID_CONFIGURATION:
        spec["model"]["volume"]["path"] = "nowhere"
    if plan.ending is Ending.REFUSED:
        spec["hyperparameters"]["effectiveBatchSize"] = 0
    return made


def save_inputs(models: Path, data: Path) -> None:
    """What the manifests name, in the folders behind their claims."""
    save_tiny_model(models / "tiny")
    if not (models / _POISONED).exists():
        # Every question has it.
        poison(models / "tiny", models / _POISONED, token="y")
    save_chat_data(data / "train.jsonl", samples=SAMPLES)
    (data / _BROKEN).write_text((data / "train.jsonl").read_text() + '{"messages": [\n')
