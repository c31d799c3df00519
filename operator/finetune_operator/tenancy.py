"""Pure: what an administrator's policy makes of a job: which defaults it gets, and what it may not have.

The operator never writes a spec. It works with the job as it is when the defaults are filled in, and has on record in
status.defaults which those were: from the moment when the job begins, that is what counts, and not the policy any more.
Defaults are as fixed as the fields that they fill: those of spec.storage for good, those of spec.resources and
spec.scheduling until the job is suspended. So a policy that changes moves no result, and touches nothing that runs.

Limits are asked about before a job begins and before it goes on after a suspension, never in between. An image that is
not allowed, or not any more, makes no more pods.
"""

import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from finetune_api.defaults import Defaults
from finetune_api.model import SpecModel
from finetune_api.scalars import DNS_LABEL
from finetune_api.scheduling import Scheduling, Toleration
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.objects.additions import PodAdditions, TrainingPodAdditions
from finetune_operator.objects.workload import Installation
from finetune_operator.observation.observed import Subject

# The namespace of all that have no entry of their own.
OTHERS = "*"
_NAMESPACE = rf"^({DNS_LABEL}|\*)$"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"
# What an image that ends so may have in the place of the star.
_ANY = {":*": _TAG, "@*": _DIGEST}
# What makes no sense without the other: a default comes only where the other is a default, too.
_GOES_WITH = {"workload_priority_class_name": "queue_name", "pod_group": "scheduler_name"}


def _image_pattern(image: str) -> str:
    if "*" in image[:-1] or (image.endswith("*") and image[-2:] not in _ANY):
        raise ValueError(
            "must be an image as its registry has it, or end in :* for every tag of a repository, or in @* for every "
            "digest"
        )
    return image


ImagePattern = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_image_pattern)]


class Limits(SpecModel):
    """The most that one job may have."""

    max_nodes: Annotated[int, Field(ge=1)] | None = None
    """Training pods (spec.resources.nodes)."""
    max_gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of all of them (spec.resources.nodes times gpusPerNode)."""


class NamespacePolicy(SpecModel):
    """What holds for the jobs of a namespace."""

    defaults: Defaults = Defaults()
    """Values for what their specs leave open."""
    limits: Limits = Limits()
    """The most that they may have."""
    pods: PodAdditions = PodAdditions()
    """What all of their pods get."""
    training_pods: TrainingPodAdditions = TrainingPodAdditions()
    """What those get besides that train."""


class Policy(SpecModel):
    """All that an administrator has set."""

    trainer_images: list[ImagePattern] = []
    """Images that spec.trainerImage may name."""
    namespaces: dict[Annotated[str, Field(pattern=_NAMESPACE)], NamespacePolicy] = {}
    """By namespace; * is for those that have no entry of their own."""

    def of(self, namespace: str) -> NamespacePolicy:
        """What holds in a namespace."""
        return self.namespaces.get(namespace) or self.namespaces.get(OTHERS) or NamespacePolicy()

    def allows(self, image: str) -> bool:
        """Whether a job may have this image for its trainer."""
        return any(_fits(image, pattern) for pattern in self.trainer_images)


NO_POLICY = Policy()


def _fits(image: str, pattern: str) -> bool:
    if (rest := _ANY.get(pattern[-2:])) is None:
        return image == pattern
    return re.fullmatch(re.escape(pattern[:-1]) + rest, image) is not None


@dataclass(frozen=True)
class Administered:
    """A job under a policy."""

    job: FineTuneJob
    """As the operator takes it: with the defaults filled in."""
    defaults: Defaults | None
    """What was filled in."""
    exceeded: tuple[str, ...]
    """What keeps it from beginning, or from going on after a suspension: fields, values and what is allowed."""
    forbidden: tuple[str, ...]
    """What keeps pods from being made of it, whenever that is; likewise."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """All that it may not have."""
        return self.exceeded + self.forbidden


def administered(job: FineTuneJob, status: FineTuneJobStatus, policy: Policy) -> Administered:
    """A job under a policy; what was filled in when it began stays."""
    namespace = job.metadata.namespace
    here = policy.of(namespace)
    defaults = _used(job, _defaults(status, here.defaults))
    job = _with(job, defaults)
    exceeded = _exceeded(job, here.limits)
    if job.spec.storage.claim_name is None:
        exceeded.append(
            f"spec.storage.claimName: is required: the administrator has set no default for namespace {namespace}"
        )
    return Administered(
        job,
        None if defaults == Defaults() else defaults,
        tuple(exceeded),
        tuple(_forbidden_image(job, policy)),
    )


def under(policy: Policy, subject: Subject) -> Subject:
    """A FineTuneJob as the reconciler is to take it; one that may not begin, or go on, counts as invalid."""
    if subject.job is None:
        return subject
    status = subject.status
    found = administered(subject.job, status, policy)
    begins = status.start_time is None
    goes_on = status.phase is Phase.SUSPENDED and not subject.job.spec.suspend
    if found.refusals and (begins or goes_on):
        return replace(subject, job=None, problems=found.refusals)
    return replace(
        subject, job=found.job, defaults=found.defaults, refusal="; ".join(found.forbidden) or None
    )


def installed(installation: Installation, policy: Policy, namespace: str) -> Installation:
    """What the operator was installed with, as it is for the jobs of a namespace.

    It is no default, but what pods get that are made from now on: where a policy changes, those that run stay as they
    are, and the next attempt has it.
    """
    here = policy.of(namespace)
    return replace(installation, single_pods=here.pods, training_pods=here.training_pods.beside(here.pods))


def _defaults(status: FineTuneJobStatus, current: Defaults) -> Defaults:
    if status.start_time is None:
        return current
    known = status.defaults or Defaults()
    if status.phase is Phase.SUSPENDED:
        return current.model_copy(update={"storage_claim_name": known.storage_claim_name})
    return known


def filled(job: FineTuneJob, defaults: Defaults) -> FineTuneJob:
    """The job with these defaults in the place of what its spec leaves open."""
    return _with(job, _used(job, defaults))


def _with(job: FineTuneJob, used: Defaults) -> FineTuneJob:
    spec = job.spec
    scheduling = {name: value for name in Scheduling.model_fields if (value := getattr(used, name))}
    scheduling["node_selector"] = used.node_selector | spec.scheduling.node_selector
    scheduling["tolerations"] = [*spec.scheduling.tolerations, *used.tolerations]
    changes: dict[str, Any] = {"scheduling": spec.scheduling.model_copy(update=scheduling)}
    if used.gpu_resource_name is not None:
        named = {"gpu_resource_name": used.gpu_resource_name}
        changes["resources"] = spec.resources.model_copy(update=named)
    if used.storage_claim_name is not None:
        changes["storage"] = spec.storage.model_copy(update={"claim_name": used.storage_claim_name})
    return job.model_copy(update={"spec": spec.model_copy(update=changes)})


def _used(job: FineTuneJob, defaults: Defaults) -> Defaults:
    """Those of the defaults for which the spec leaves room."""
    spec, stated = job.spec, job.spec.scheduling
    used: dict[str, Any] = {
        name: getattr(defaults, name)
        for name in Scheduling.model_fields
        if getattr(stated, name) is None and getattr(stated, _GOES_WITH.get(name, name)) is None
    }
    used["node_selector"] = {
        key: value for key, value in defaults.node_selector.items() if key not in stated.node_selector
    }
    tolerated = {_taint(toleration) for toleration in stated.tolerations}
    used["tolerations"] = [one for one in defaults.tolerations if _taint(one) not in tolerated]
    if spec.resources.gpu_resource_name is None:
        used["gpu_resource_name"] = defaults.gpu_resource_name
    if spec.storage.claim_name is None:
        used["storage_claim_name"] = defaults.storage_claim_name
    return Defaults(**used)


def _taint(toleration: Toleration) -> tuple[str, str | None]:
    return toleration.key, toleration.effect


def _exceeded(job: FineTuneJob, limits: Limits) -> list[str]:
    resources = job.spec.resources
    where = f"is more than the administrator allows in namespace {job.metadata.namespace}"
    found = []
    if limits.max_nodes is not None and resources.nodes > limits.max_nodes:
        found.append(
            f"spec.resources.nodes: {resources.nodes} {where}: at most {limits.max_nodes} (maxNodes)"
        )
    gpus = resources.nodes * resources.gpus_per_node
    if limits.max_gpus is not None and gpus > limits.max_gpus:
        found.append(
            f"spec.resources.gpusPerNode: {resources.gpus_per_node} on each of {resources.nodes} nodes {where}: at "
            f"most {limits.max_gpus} GPUs in all (maxGpus), and these are {gpus}"
        )
    return found


def _forbidden_image(job: FineTuneJob, policy: Policy) -> list[str]:
    image = job.spec.trainer_image
    if image is None or policy.allows(image):
        return []
    allowed = ", ".join(policy.trainer_images)
    return [
        f"spec.trainerImage: {image} is not allowed: the administrator allows {allowed}. Name one of these, or none"
    ]
