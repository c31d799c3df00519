"""Pure: where a job's inputs and results appear inside its pods."""

from typing import Any

from finetune_api import names
from finetune_api.runconfig import Locations
from finetune_api.spec import FineTuneJob

Manifest = dict[str, Any]


def locations(job: FineTuneJob) -> Locations:
    """Where a process of the job's pods finds and leaves things."""
    storage = f"{names.STORAGE_MOUNT}/{job.storage_path}"
    model = job.spec.model.volume
    assert model is not None
    files = {
        name: [f"{names.data_mount(name)}/{source.volume.path}"]
        for name, source in job.spec.data_sources.items()
        if source.volume is not None
    }
    return Locations(model=f"{names.MODEL_MOUNT}/{model.path}", data=files, storage=storage)


def mounted(job: FineTuneJob, *, reads_data: bool) -> tuple[list[Manifest], list[Manifest]]:
    """One volume per claim, however many parts of the job lie on it, and the mounts of all parts.

    A claim that nothing is written to is attached read-only: others may use it at the same time.
    """
    spec = job.spec
    storage = spec.storage.claim_name
    parts = [("storage", storage, names.STORAGE_MOUNT)]
    if spec.model.volume is not None:
        parts.append(("model", spec.model.volume.claim_name, names.MODEL_MOUNT))
    if reads_data:
        parts += [
            (f"data-{name}", source.volume.claim_name, names.data_mount(name))
            for name, source in spec.data_sources.items()
            if source.volume is not None
        ]
    volume_names: dict[str, str] = {}
    mounts: list[Manifest] = []
    for part, claim, path in parts:
        volume = volume_names.setdefault(claim, part)
        mount: Manifest = {"name": volume, "mountPath": path}
        mounts.append(mount if part == "storage" else mount | {"readOnly": True})
    volumes: list[Manifest] = []
    for claim, volume in volume_names.items():
        source: Manifest = {"claimName": claim}
        volumes.append(
            {
                "name": volume,
                "persistentVolumeClaim": source if claim == storage else source | {"readOnly": True},
            }
        )
    return volumes, mounts
