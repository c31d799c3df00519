"""Runs whose inputs come over the network, as far as their downloads."""

from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.inputs import Input
from finetune_api.report import Transfer
from finetune_api.runconfig import Locations, RunConfig, run_config
from finetune_api.spec import FineTuneJob
from finetune_trainer import checks
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources.fetching import fetch, look_at
from finetune_trainer.storage import Storage

ON_VOLUME = {"volume": {"claimName": "data", "path": "train.jsonl"}}


def config(
    base: Path, model: dict[str, Any], train: dict[str, Any] = ON_VOLUME, *, name: str = "run"
) -> RunConfig:
    """A run whose claims are the directories models, data and runs below `base`."""
    job = FineTuneJob.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": "team-a", "uid": f"uid-of-{name}"},
            "spec": {
                "method": "sft",
                "model": model,
                "dataset": {"train": train},
                "storage": {"claimName": "runs"},
                "resources": {"gpusPerNode": 0},
            },
        }
    )
    storage = base / "runs" / name
    downloads = str(storage.parent / names.DOWNLOADS_DIR)
    volume, file = job.spec.model.volume, job.spec.dataset.train.volume
    locations = Locations(
        model=str(base / "models" / volume.path) if volume else downloads,
        data={"train": [str(base / "data" / file.path) if file else downloads]},
        storage=str(storage),
    )
    return run_config(job, locations, None)


class Shown(Reporter):
    """What a Report has shown of downloads."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(Storage.of(config), names.PREPARATION, None, silent=False)
        self.transfers: list[Transfer] = []

    def tick(self, **changes: Any) -> None:
        """Take note of every change; the Report has only some."""
        if "transfer" in changes:
            self.transfers.append(changes["transfer"])
        super().tick(**changes)


def fetched(config: RunConfig) -> tuple[RunConfig, list[Transfer]]:
    """The run with its downloads there, and how that was shown."""
    checks.check_storage(config, node=0)
    reporter = Shown(config)
    try:
        return fetch(config, reporter), reporter.transfers
    finally:
        reporter.close()


def told(config: RunConfig) -> dict[str, Input]:
    """What is told of its inputs, by their names."""
    return {one.name: one for one in look_at(config, lambda: None)}
