"""Pure: where a job's inputs and results appear inside its pods."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from finetune_api import names
from finetune_api.evaluation import MODEL
from finetune_api.publish import HubRepository
from finetune_api.runconfig import Locations
from finetune_api.sources import DataSource, HubSource, ModelSource, ObjectStore
from finetune_api.spec import FineTuneJob

Manifest = dict[str, Any]

CLAIM = "persistentVolumeClaim"
# What a cluster answers to a model in an image that cannot mount one.
NO_IMAGES = (
    "spec.model.image: the API server has no image volumes: they are on from Kubernetes 1.35 on, and before, from 1.31 "
    "on, with the feature gate ImageVolume of the API server and the kubelets. Have that turned on, or have the model "
    "on a claim (spec.model.volume)"
)


@dataclass(frozen=True)
class _Part:
    """A directory that appears inside a pod."""

    name: str
    path: str
    """Where it appears."""
    source: Manifest
    """What it is, as a pod's volume says it."""
    written: bool = False


def locations(job: FineTuneJob) -> Locations:
    """Where a process of the job's pods finds and leaves things.

    Of what is downloaded nobody knows yet where it will lie, but below the directory of downloads.
    """
    storage = f"{names.STORAGE_MOUNT}/{job.storage_path}"
    places = Locations(model="", data={}, storage=storage)
    sources = job.spec.data_sources
    return places.model_copy(
        update={
            "model": _model_directory(job.spec.model) or places.downloads,
            "data": {name: [_data_file(name, one) or places.downloads] for name, one in sources.items()},
        }
    )


def _model_directory(model: ModelSource) -> str | None:
    found = model.volume or model.image
    return None if found is None else str(PurePosixPath(names.MODEL_MOUNT) / found.path)


def _data_file(name: str, source: DataSource) -> str | None:
    if source.volume is not None:
        return f"{names.data_mount(name)}/{source.volume.path}"
    if source.config_map is not None:
        return f"{names.data_mount(name)}/{source.config_map.key}"
    return None


def mounted(
    job: FineTuneJob, *, reads_data: bool, downloads: bool = False
) -> tuple[list[Manifest], list[Manifest]]:
    """The volumes of what the job reads and writes, and their mounts.

    `downloads`: the pod fetches what comes over the network, and has the Secrets for that. Other pods find it on the
    storage claim.
    """
    parts = [_storage(job), *_model(job.spec.model)]
    if reads_data:
        parts += [part for name, source in job.spec.data_sources.items() for part in _data(name, source)]
    if downloads:
        parts += [_credentials(name, secret) for name, secret in _secrets(job).items()]
    return _attached(parts)


def has_image(job: Manifest) -> bool:
    """Whether pods of a batch/v1 Job have an image for a volume."""
    return any("image" in volume for volume in job["spec"]["template"]["spec"]["volumes"])


def published(job: FineTuneJob) -> tuple[list[Manifest], list[Manifest]]:
    """The volumes and mounts of the upload: the result, and the Secret of who may write to where it goes.

    The result's claim is not attached read-only: log and Report of the upload lie there too.
    """
    publish = job.spec.publish
    assert publish is not None
    secret = _secret(publish.hugging_face, publish.object_store)
    return _attached(
        [_storage(job), *([_credentials(names.PUBLISH_CREDENTIALS, secret)] if secret is not None else [])]
    )


def _storage(job: FineTuneJob) -> _Part:
    return _Part("storage", names.STORAGE_MOUNT, _claim(job.storage_claim), written=True)


def _model(model: ModelSource) -> list[_Part]:
    if model.volume is not None:
        return [_Part("model", names.MODEL_MOUNT, _claim(model.volume.claim_name))]
    if model.image is not None:
        # Pulled as a container's image is: by the same rule when, and with the same Secrets.
        return [_Part("model", names.MODEL_MOUNT, {"image": {"reference": model.image.reference}})]
    return []


def _data(name: str, source: DataSource) -> list[_Part]:
    if source.volume is not None:
        found = _claim(source.volume.claim_name)
    elif source.config_map is not None:
        key = source.config_map.key
        found = {"configMap": {"name": source.config_map.name, "items": [{"key": key, "path": key}]}}
    else:
        return []
    return [_Part(f"data-{name}", names.data_mount(name), found)]


def _claim(name: str) -> Manifest:
    return {CLAIM: {"claimName": name}}


def _credentials(name: str, secret: Manifest) -> _Part:
    # For the user of the pod, who is in the group that owns the files.
    source = {"secret": secret | {"defaultMode": 0o440}}
    return _Part(f"credentials-{name}", names.credentials_dir(name), source)


def _secrets(job: FineTuneJob) -> dict[str, Manifest]:
    """What lets its owner download each input, by the input's name."""
    found = {MODEL: _secret(job.spec.model.hugging_face)}
    for name, source in job.spec.data_sources.items():
        found[name] = _secret(source.hugging_face, source.object_store)
    return {name: secret for name, secret in found.items() if secret is not None}


def _secret(hub: HubSource | HubRepository | None, store: ObjectStore | None = None) -> Manifest | None:
    """The Secret for a repository or an object store, as a volume says it."""
    if hub is not None and (token := hub.token_secret_ref) is not None:
        return {"secretName": token.name, "items": [{"key": token.key, "path": names.TOKEN_FILE}]}
    if store is not None and store.credentials_secret_ref is not None:
        return {"secretName": store.credentials_secret_ref.name}
    return None


def _attached(parts: Sequence[_Part]) -> tuple[list[Manifest], list[Manifest]]:
    """One volume per claim, however many parts of the job lie on it, and the mounts of all parts.

    A claim that nothing is written to is attached read-only: others may use it at the same time.
    """
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    for part in parts:
        known = next((volume for volume in volumes if _same_claim(volume, part.source)), None)
        volume = known or {"name": part.name} | part.source
        if known is None:
            volumes.append(volume)
        mount: Manifest = {"name": volume["name"], "mountPath": part.path}
        mounts.append(mount if part.written else mount | {"readOnly": True})
    written = {mount["name"] for mount in mounts if "readOnly" not in mount}
    return [volume if volume["name"] in written else _read_only(volume) for volume in volumes], mounts


def _same_claim(volume: Manifest, source: Manifest) -> bool:
    return CLAIM in source and volume.get(CLAIM) == source[CLAIM]


def _read_only(volume: Manifest) -> Manifest:
    # Others are so by themselves.
    return volume | {CLAIM: volume[CLAIM] | {"readOnly": True}} if CLAIM in volume else volume
