"""The job that finetune-trainer is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.runconfig import Locations, RunConfig, run_config
from finetune_api.spec import FineTuneJob


def configuration(
    *,
    model: Path,
    data: Path,
    storage: Path,
    hyperparameters: Mapping[str, Any],
    lora: Mapping[str, Any] | None = None,
    use_gpu: bool = False,
    full_state: bool = False,
) -> RunConfig:
    """The RunConfig of a job of one process that keeps no checkpoints on its way, or `full_state` alone.

    It trains adapters where `lora` says how, and else all weights.
    """
    job = FineTuneJob.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": storage.name, "namespace": "benchmarks", "uid": f"of-{storage.parent.name}"},
            "spec": {
                "method": "sft" if lora is None else "lora",
                "lora": lora,
                "model": {"volume": {"claimName": "models", "path": "model"}},
                "dataset": {"train": {"volume": {"claimName": "data", "path": data.name}}},
                "storage": {"claimName": "runs"},
                "hyperparameters": hyperparameters,
                "checkpoints": {"everyEpoch": False, "fullStateAtEpoch": full_state},
                "resources": {"nodes": 1, "gpusPerNode": int(use_gpu)},
            },
        }
    )
    locations = Locations(model=str(model), data={"train": [str(data)]}, storage=str(storage))
    return run_config(job, locations, None)
