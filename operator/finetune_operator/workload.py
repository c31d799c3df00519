"""Pure: the Kubernetes objects of one attempt."""

import hashlib
from dataclasses import dataclass
from typing import Any

from finetune_api import names
from finetune_api.runconfig import Locations, RunConfig, run_config
from finetune_api.spec import FineTuneJob

Manifest = dict[str, Any]

# The user of both images (see Dockerfile).
USER_ID = 65532
TOKEN_LIFETIME_SECONDS = 3600


@dataclass(frozen=True)
class Installation:
    """What the operator was installed with."""

    trainer_image: str
    report_url: str
    """Base URL of the report endpoint as pods reach it."""
    report_ca: str
    """PEM certificates that the endpoint's certificate is checked against."""


def manifests(job: FineTuneJob, attempt: int, installation: Installation) -> tuple[Manifest, ...]:
    """Everything that an attempt needs, in the order in which to apply it.

    The Job comes last: where it exists, all that its pods need existed before.
    """
    config = run_config(
        job,
        _locations(job),
        installation.report_url.rstrip("/") + names.report_path(job.metadata.namespace, job.metadata.name),
    )
    config_map = _config_map(job, config, installation.report_ca)
    return (
        config_map,
        _service(job),
        _network_policy(job),
        _job(job, attempt, installation.trainer_image, config, config_map["metadata"]["name"]),
    )


def _locations(job: FineTuneJob) -> Locations:
    return Locations(
        model=f"{names.MODEL_MOUNT}/{job.spec.model.volume.path}",
        train=f"{names.TRAIN_MOUNT}/{job.spec.dataset.train.volume.path}",
        storage=f"{names.STORAGE_MOUNT}/{job.storage_path}",
    )


def labels(job_name: str, attempt: int | None = None) -> dict[str, str]:
    """The labels of a job's objects; those of one attempt carry its number."""
    common = {names.LABEL_JOB: job_name, names.LABEL_MANAGED_BY: names.MANAGED_BY}
    return common if attempt is None else common | {names.LABEL_ATTEMPT: str(attempt)}


def _metadata(job: FineTuneJob, name: str, attempt: int | None = None) -> Manifest:
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels(job.metadata.name, attempt),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def _config_map(job: FineTuneJob, config: RunConfig, report_ca: str) -> Manifest:
    # Immutable, so its name must tell apart everything that is in it.
    digest = hashlib.sha256((config.digest + report_ca).encode()).hexdigest()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, names.run_config_name(job.metadata.name, digest)),
        "immutable": True,
        "data": {names.RUN_CONFIG_FILE: config.to_json(), names.REPORT_CA_FILE: report_ca},
    }


def _service(job: FineTuneJob) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, names.service_name(job.metadata.name)),
        "spec": {
            "clusterIP": "None",
            # torchrun meets at pod 0 long before anything could call a pod ready.
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB: job.metadata.name},
            "ports": [{"name": "rendezvous", "port": names.MASTER_PORT}],
        },
    }


def _network_policy(job: FineTuneJob) -> Manifest:
    # torch's store and its collectives trust whoever reaches them, on ports that the system picks.
    gang = {"matchLabels": {names.LABEL_JOB: job.metadata.name}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, names.network_policy_name(job.metadata.name)),
        "spec": {
            "podSelector": gang,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": gang}]}],
        },
    }


def _job(job: FineTuneJob, attempt: int, image: str, config: RunConfig, config_map: str) -> Manifest:
    name = job.metadata.name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, names.attempt_job_name(name, attempt), attempt),
        "spec": {
            "completionMode": "Indexed",
            "completions": config.nodes,
            "parallelism": config.nodes,
            # A gang is restarted as a whole, and by one authority: the FineTuneJob.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels(name, attempt)},
                "spec": _pod_spec(job, attempt, image, config, config_map),
            },
        },
    }


def _pod_spec(job: FineTuneJob, attempt: int, image: str, config: RunConfig, config_map: str) -> Manifest:
    claim_volumes, claim_mounts = _claims(job)
    return {
        "restartPolicy": "Never",
        "subdomain": names.service_name(job.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": config.grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Walking through a volume of checkpoints at every start would take minutes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": names.TRAINER_CONTAINER,
                "image": image,
                "args": ["train", "--config", f"{names.RUN_CONFIG_DIR}/{names.RUN_CONFIG_FILE}"],
                "env": _environment(job.metadata.name, attempt, config),
                "ports": [{"name": "rendezvous", "containerPort": names.MASTER_PORT}],
                "resources": _resources(job),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": names.TERMINATION_LOG,
                "terminationMessagePolicy": "File",
                "volumeMounts": [
                    {"name": "config", "mountPath": names.RUN_CONFIG_DIR, "readOnly": True},
                    {"name": "token", "mountPath": names.TOKEN_DIR, "readOnly": True},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "tmp", "mountPath": "/tmp"},
                    *claim_mounts,
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": config_map}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": _token()}]}},
            {"name": "shm", "emptyDir": _shared_memory(job)},
            {"name": "tmp", "emptyDir": {}},
            *claim_volumes,
        ],
    }


def _environment(name: str, attempt: int, config: RunConfig) -> list[Manifest]:
    """torchrun's own variables, by which the pods of a gang find one another; and who this pod is."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values = {
        "PET_NNODES": str(config.nodes),
        "PET_NPROC_PER_NODE": str(config.processes_per_node),
        "PET_MASTER_ADDR": names.master_address(name, attempt),
        "PET_MASTER_PORT": str(names.MASTER_PORT),
        names.ENV_ATTEMPT: str(attempt),
    }
    return [
        *({"name": key, "value": value} for key, value in values.items()),
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": names.ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]


def _resources(job: FineTuneJob) -> Manifest:
    resources = job.spec.resources
    requests = resources.requests.to_wire()
    # No limit on the CPU: throttling one pod would slow the whole gang.
    limits: dict[str, Any] = {}
    if resources.requests.memory is not None:
        limits["memory"] = resources.requests.memory
    if resources.gpus_per_node > 0:
        limits[resources.gpu_resource_name] = str(resources.gpus_per_node)
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _shared_memory(job: FineTuneJob) -> Manifest:
    limit = job.spec.resources.shared_memory
    return {"medium": "Memory"} | ({"sizeLimit": limit} if limit is not None else {})


def _token() -> Manifest:
    return {
        "audience": names.TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_LIFETIME_SECONDS,
        "path": names.TOKEN_FILE,
    }


def _claims(job: FineTuneJob) -> tuple[list[Manifest], list[Manifest]]:
    """One volume per claim, however many parts of the job lie on it, and the mounts of all parts.

    A claim that nothing is written to is attached read-only: others may use it at the same time.
    """
    spec = job.spec
    storage = spec.storage.claim_name
    parts = (
        ("storage", storage, names.STORAGE_MOUNT),
        ("model", spec.model.volume.claim_name, names.MODEL_MOUNT),
        ("train", spec.dataset.train.volume.claim_name, names.TRAIN_MOUNT),
    )
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
