"""Pure: the pods that a job's Jobs make: the gang that trains, and those that prepare, merge and publish, alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune_api import names
from finetune_api.resources import GPU_RESOURCE_NAME
from finetune_api.runconfig import RunConfig
from finetune_api.scheduling import Scheduling
from finetune_api.spec import FineTuneJob
from finetune_operator.objects import tracking, volumes

Manifest = dict[str, Any]

# The user of both images (see Dockerfile).
USER_ID = 65532
TOKEN_LIFETIME_SECONDS = 3600
# What the preparation is sure of, wherever it runs; it takes the cores that nobody else wants. Not what
# spec.resources.requests has: that is the share of a node with GPUs, which it would wait for and keep from others.
# Nor is it limited: the largest row decides how much memory it takes, and nobody knows that before.
PREPARATION_REQUESTS = {"cpu": "1", "memory": "2Gi"}


class Image(NamedTuple):
    """What a pod runs."""

    reference: str
    pull_secrets: tuple[str, ...] = ()
    """Secrets of the pod's namespace with which the kubelet may pull it; without any, those of the service account."""


def preparation(
    job: FineTuneJob, image: Image, config: RunConfig, config_map: str, hub: Mapping[str, str]
) -> Manifest:
    """The pod that downloads what comes over the network, and prepares the data: no GPU.

    It alone has the Secrets of the inputs; `hub` has the variables that tell where the Hugging Face Hub is.
    """
    return _pod(
        job,
        image,
        config,
        config_map,
        container={
            "args": _command("prepare"),
            "env": [*_environment(names.PREPARATION), *_variables(hub)],
            "resources": {"requests": dict(PREPARATION_REQUESTS)},
        },
        inputs=volumes.mounted(job, reads_data=True, downloads=True),
    )


def merging(
    job: FineTuneJob, image: Image, config: RunConfig, config_map: str, *, memory: int | None
) -> Manifest:
    """The pod that merges the adapter: no GPU, no data, and nobody to talk to but the operator.

    `memory` is what it takes, in bytes. Where nobody knows, it asks for as much as those that trained the same model.
    """
    stated = job.spec.resources.requests.memory or PREPARATION_REQUESTS["memory"]
    requests = PREPARATION_REQUESTS | {"memory": stated if memory is None else str(memory)}
    return _pod(
        job,
        image,
        config,
        config_map,
        container={
            "args": _command("merge"),
            "env": _environment(names.MERGING),
            "resources": {"requests": requests},
        },
        inputs=volumes.mounted(job, reads_data=False),
    )


def publishing(
    job: FineTuneJob, image: Image, config: RunConfig, config_map: str, hub: Mapping[str, str]
) -> Manifest:
    """The pod that uploads the result: no GPU, no inputs; it alone has the Secret of who may write there.

    `hub` has the variables that tell where the Hugging Face Hub is.
    """
    return _pod(
        job,
        image,
        config,
        config_map,
        container={
            "args": _command("publish"),
            "env": [*_environment(names.PUBLISHING), *_variables(hub)],
            "resources": {"requests": dict(PREPARATION_REQUESTS)},
        },
        inputs=volumes.published(job),
    )


def member(
    job: FineTuneJob, attempt: int, image: Image, config: RunConfig, config_map: str, *, avoid: Sequence[str]
) -> Manifest:
    """A pod of the gang of one attempt, on none of the nodes to `avoid`."""
    pod = _pod(
        job,
        image,
        config,
        config_map,
        container={
            "args": _command("train"),
            "env": [
                *_environment(attempt),
                *_rendezvous(job.metadata.name, attempt, config),
                *tracking.environment(job.spec),
            ],
            "ports": [{"name": "rendezvous", "containerPort": names.MASTER_PORT}],
            "resources": _resources(job),
        },
        inputs=volumes.mounted(job, reads_data=True),
        scratch={"shm": ("/dev/shm", _shared_memory(job))},
    )
    return (
        pod
        | {"subdomain": names.service_name(job.metadata.name)}
        | _placement(job.spec.scheduling)
        | _affinity(job, attempt, avoid)
    )


def _pod(
    job: FineTuneJob,
    image: Image,
    config: RunConfig,
    config_map: str,
    *,
    container: Manifest,
    inputs: tuple[list[Manifest], list[Manifest]],
    scratch: dict[str, tuple[str, Manifest]] | None = None,
) -> Manifest:
    """What all pods have in common, around what its container has of its own.

    `inputs` has volumes and mounts of what outlives the pod (see volumes.py); `scratch` has directories that go with
    it besides /tmp: their paths and kinds, by name.
    """
    input_volumes, input_mounts = inputs
    directories = (scratch or {}) | {"tmp": ("/tmp", {})}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **(
            {"imagePullSecrets": [{"name": name} for name in image.pull_secrets]}
            if image.pull_secrets
            else {}
        ),
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
                "image": image.reference,
                **container,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePath": names.TERMINATION_LOG,
                # A trainer that dies without a word leaves what it printed last.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "config", "mountPath": names.RUN_CONFIG_DIR, "readOnly": True},
                    {"name": "token", "mountPath": names.TOKEN_DIR, "readOnly": True},
                    *({"name": name, "mountPath": path} for name, (path, _) in directories.items()),
                    *input_mounts,
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": config_map}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": _token()}]}},
            *({"name": name, "emptyDir": kind} for name, (_, kind) in directories.items()),
            *input_volumes,
        ],
    }


def _placement(scheduling: Scheduling) -> Manifest:
    placement = {
        "nodeSelector": scheduling.node_selector,
        "tolerations": [toleration.to_wire() for toleration in scheduling.tolerations],
        "priorityClassName": scheduling.priority_class_name,
        "schedulerName": scheduling.scheduler_name,
    }
    return {field: value for field, value in placement.items() if value}


def _affinity(job: FineTuneJob, attempt: int, avoid: Sequence[str]) -> Manifest:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity: Manifest = {}
    if avoid:
        # Such a requirement takes one name; all requirements of a term have to hold.
        elsewhere = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in avoid]
        affinity["nodeAffinity"] = {required: {"nodeSelectorTerms": [{"matchFields": elsewhere}]}}
    if job.spec.scheduling.topology_key is not None:
        # The first pod of a gang has no other to be near to, and is let go anywhere.
        gang = {names.LABEL_JOB: job.metadata.name, names.LABEL_ATTEMPT: names.attempt_label(attempt)}
        near = {"labelSelector": {"matchLabels": gang}, "topologyKey": job.spec.scheduling.topology_key}
        affinity["podAffinity"] = {required: [near]}
    return {"affinity": affinity} if affinity else {}


def _command(name: str) -> list[str]:
    return [name, "--config", f"{names.RUN_CONFIG_DIR}/{names.RUN_CONFIG_FILE}"]


def _environment(attempt: int) -> list[Manifest]:
    """Who this pod is."""
    return [
        {"name": names.ENV_ATTEMPT, "value": str(attempt)},
        {"name": names.ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]


def _variables(values: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _rendezvous(name: str, attempt: int, config: RunConfig) -> list[Manifest]:
    """torchrun's own variables, by which the pods of a gang find one another."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values = {
        "PET_NNODES": str(config.nodes),
        "PET_NPROC_PER_NODE": str(config.processes_per_node),
        "PET_MASTER_ADDR": names.master_address(name, attempt),
        "PET_MASTER_PORT": str(names.MASTER_PORT),
    }
    return [
        *_variables(values),
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]


def _resources(job: FineTuneJob) -> Manifest:
    resources = job.spec.resources
    requests = resources.requests.to_wire()
    # No limit on the CPU: throttling one pod would slow the whole gang.
    limits: dict[str, Any] = {}
    if resources.requests.memory is not None:
        limits["memory"] = resources.requests.memory
    if resources.gpus_per_node > 0:
        limits[resources.gpu_resource_name or GPU_RESOURCE_NAME] = str(resources.gpus_per_node)
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
