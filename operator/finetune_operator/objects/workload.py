"""Pure: the Kubernetes objects of the preparation, of one attempt, of the merging and of the upload."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api import names
from finetune_api.failure import CAUSES, ExitCode, Recovery
from finetune_api.runconfig import RunConfig, run_config
from finetune_api.spec import FineTuneJob
from finetune_api.status import Attempt
from finetune_operator import kueue
from finetune_operator.objects import additions, pod_groups, pods, volumes
from finetune_operator.objects.additions import PodAdditions, TrainingPodAdditions
from finetune_operator.objects.pods import Manifest

NO_ADDITIONS = TrainingPodAdditions()
# A cluster that runs short of nodes should forget about old errors.
MAX_AVOIDED_NODES = 10


@dataclass(frozen=True)
class Installation:
    """What the operator was installed with."""

    trainer_image: str
    """That of jobs which name none."""
    report_url: str
    """Base URL of the report endpoint as pods reach it."""
    report_ca: str
    """PEM certificates that the endpoint's certificate is checked against."""
    hub_endpoint: str | None = None
    """A mirror in the place of the Hugging Face Hub."""
    hub_offline: bool = False
    """Whether nothing is asked for over the network there: what is downloaded already has to do."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets, in the namespaces of jobs, with which the kubelet may pull their image."""
    single_pods: PodAdditions = NO_ADDITIONS
    """What pods get besides that prepare, merge and publish."""
    training_pods: TrainingPodAdditions = NO_ADDITIONS
    """What those get that train."""

    def trainer(self, job: FineTuneJob) -> pods.Image:
        """The image of a job's pods."""
        return pods.Image(job.spec.trainer_image or self.trainer_image, self.pull_secrets)

    @property
    def hub_environment(self) -> dict[str, str]:
        """The same in the variables of Hugging Face's own libraries."""
        endpoint = {} if self.hub_endpoint is None else {"HF_ENDPOINT": self.hub_endpoint}
        return endpoint | ({"HF_HUB_OFFLINE": "1"} if self.hub_offline else {})


def avoided(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """The nodes that showed GPU errors, the newest first."""
    reason = CAUSES[ExitCode.GPU_ERROR].reason
    nodes = (attempt.node for attempt in reversed(attempts) if attempt.reason == reason and attempt.node)
    return tuple(dict.fromkeys(nodes))[:MAX_AVOIDED_NODES]


def preparation(job: FineTuneJob, installation: Installation) -> tuple[Manifest, ...]:
    """Everything that the preparation of the data needs, in the order in which to apply it."""
    config, config_map = _configuration(job, installation, prepared={})
    name, hub = config_map["metadata"]["name"], installation.hub_environment
    pod = pods.preparation(job, installation.trainer(job), config, name, hub)
    return config_map, _network_policy(job), _single_pod_job(job, names.PREPARATION, pod, installation)


def merging(
    job: FineTuneJob, installation: Installation, *, prepared: Mapping[str, str], memory: int | None
) -> tuple[Manifest, ...]:
    """Everything that the merging of the adapter needs, in the order in which to apply it.

    `memory` is what it takes, in bytes, as far as that is known. It is told the same as the gang was.
    """
    config, config_map = _configuration(job, installation, prepared=prepared)
    pod = pods.merging(job, installation.trainer(job), config, config_map["metadata"]["name"], memory=memory)
    return config_map, _network_policy(job), _single_pod_job(job, names.MERGING, pod, installation)


def publishing(job: FineTuneJob, installation: Installation) -> tuple[Manifest, ...]:
    """Everything that the upload of the result needs, in the order in which to apply it."""
    config, config_map = _configuration(job, installation, prepared={}, publishes=True)
    name, hub = config_map["metadata"]["name"], installation.hub_environment
    pod = pods.publishing(job, installation.trainer(job), config, name, hub)
    return config_map, _network_policy(job), _single_pod_job(job, names.PUBLISHING, pod, installation)


def attempt(
    job: FineTuneJob,
    number: int,
    installation: Installation,
    *,
    prepared: Mapping[str, str],
    avoid: Sequence[str] = (),
) -> tuple[Manifest, ...]:
    """Everything that an attempt needs, in the order in which to apply it.

    The Job comes last: where it exists, all that its pods need existed before. `prepared` has the digests of data
    that were prepared beforehand; no pod comes to a node of `avoid`.
    """
    config, config_map = _configuration(job, installation, prepared=prepared)
    pod = pods.member(
        job, number, installation.trainer(job), config, config_map["metadata"]["name"], avoid=avoid
    )
    return (
        config_map,
        _service(job),
        _network_policy(job, number),
        *_pod_group(job),
        _gang_job(job, number, pod, installation),
    )


def _configuration(
    job: FineTuneJob, installation: Installation, *, prepared: Mapping[str, str], publishes: bool = False
) -> tuple[RunConfig, Manifest]:
    url = installation.report_url.rstrip("/") + names.report_path(job.metadata.namespace, job.metadata.name)
    config = run_config(job, volumes.locations(job), url, prepared=prepared, publishes=publishes)
    return config, _config_map(job, config, installation.report_ca)


def labels(job_name: str, number: int | None = None) -> dict[str, str]:
    """The labels of a job's objects; those of one attempt, or of another step, tell which."""
    common = {names.LABEL_JOB: job_name, names.LABEL_MANAGED_BY: names.MANAGED_BY}
    return common if number is None else common | {names.LABEL_ATTEMPT: names.attempt_label(number)}


def _metadata(job: FineTuneJob, name: str, number: int | None = None) -> Manifest:
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels(job.metadata.name, number),
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


def _network_policy(job: FineTuneJob, number: int | None = None) -> Manifest:
    """Who reaches the pods of the job: those of the attempt `number`; of any other step, nobody.

    torch's store and its collectives trust whoever connects, on ports that the system picks. Nor may a pod of an
    earlier attempt join that lives on, on a node out of reach. It is one object, which every step makes its own.
    """
    pods_of_job = {names.LABEL_JOB: job.metadata.name}
    ingress = []
    if number is not None:
        gang = pods_of_job | {names.LABEL_ATTEMPT: names.attempt_label(number)}
        ingress = [{"from": [{"podSelector": {"matchLabels": gang}}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, names.network_policy_name(job.metadata.name)),
        "spec": {
            "podSelector": {"matchLabels": pods_of_job},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _single_pod_job(job: FineTuneJob, number: int, pod: Manifest, installation: Installation) -> Manifest:
    """A single pod has no peers to wait for: its Job can start it again by itself."""
    return _job(
        job,
        number,
        additions.to_any(_template(job, number, pod), installation.single_pods),
        {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": job.spec.failure_policy.max_restarts,
            # The first rule that fits decides, and what none fits counts against the limit.
            "podFailurePolicy": {
                "rules": [*_uncounted(), {"action": "FailJob", "onExitCodes": _exit_codes(Recovery.FAIL)}]
            },
        },
    )


def _uncounted() -> list[Manifest]:
    """What does not count as a failure of a pod: that the cluster takes it away."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": _exit_codes(Recovery.RESUME)},
    ]


def _exit_codes(recovery: Recovery) -> Manifest:
    return {
        "containerName": names.TRAINER_CONTAINER,
        "operator": "In",
        "values": sorted(int(code) for code, cause in CAUSES.items() if cause.recovery is recovery),
    }


def _pod_group(job: FineTuneJob) -> list[Manifest]:
    return pod_groups.group(
        job.spec.scheduling,
        _metadata(job, names.pod_group_name(job.metadata.name)),
        nodes=job.spec.resources.nodes,
        start_within=job.spec.failure_policy.startup_deadline_seconds,
    )


def _gang_job(job: FineTuneJob, number: int, pod: Manifest, installation: Installation) -> Manifest:
    nodes, scheduling = job.spec.resources.nodes, job.spec.scheduling
    policy: Manifest = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        # A gang is restarted as a whole, and by one authority: the FineTuneJob.
        "backoffLimit": 0,
    }
    queue = kueue.labels(scheduling)
    if queue:
        policy |= {
            # From here on this is Kueue's to change: see kueue.py.
            "suspend": True,
            # Pods that Kueue takes away must not count as failed, or the Job would not live to be let go on again.
            "podFailurePolicy": {"rules": _uncounted()},
        }
    template = additions.to_training(_template(job, number, pod), installation.training_pods)
    group = names.pod_group_name(job.metadata.name)
    template["metadata"] = pod_groups.joined(template["metadata"], scheduling, group)
    manifest = _job(job, number, template, policy)
    manifest["metadata"]["labels"] |= queue
    return manifest


def _template(job: FineTuneJob, number: int, pod: Manifest) -> Manifest:
    return {"metadata": {"labels": labels(job.metadata.name, number)}, "spec": pod}


def _job(job: FineTuneJob, number: int, template: Manifest, policy: Manifest) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, names.attempt_job_name(job.metadata.name, number), number),
        "spec": {**policy, "podReplacementPolicy": "Failed", "template": template},
    }
