"""Pure: what an administrator has added to the pods of a namespace.

What its nodes and networks are like is no job's business: the way out to the internet, the adapters by which a gang's
GPUs talk to one another, the runtime that hands them to containers.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from finetune_api import names
from finetune_api.model import SpecModel
from finetune_api.resources import GpuResourceName
from finetune_api.scheduling import LabelKey, LabelValue, ObjectName

Manifest = dict[str, Any]

# Who a pod is, and whom it meets, is told it by these alone.
_OWN_VARIABLES = ("FINETUNE_", "PET_")
# By these, the operator, Jobs and NetworkPolicies tell pods apart. Jobs have set the last two since before they had a
# domain, and still do.
_OWN_DOMAINS = (names.GROUP, "batch.kubernetes.io")
_OWN_KEYS = (names.LABEL_MANAGED_BY, "controller-uid", "job-name")


def _not_own_variable(name: str) -> str:
    if name.startswith(_OWN_VARIABLES):
        raise ValueError(f"is the operator's own: name none that begins with {' or '.join(_OWN_VARIABLES)}")
    return name


def _not_own_key(key: str) -> str:
    if key in _OWN_KEYS or key.partition("/")[0] in _OWN_DOMAINS:
        own = (*_OWN_KEYS, *(f"{domain}/…" for domain in _OWN_DOMAINS))
        raise ValueError(f"is not the administrator's to set, as all of these: {', '.join(own)}")
    return key


Variable = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
    AfterValidator(_not_own_variable),
]
Key = Annotated[LabelKey, AfterValidator(_not_own_key)]


class PodAdditions(SpecModel):
    """What all pods of a job get. What they have of their own always wins."""

    env: dict[Variable, str] = {}
    """Variables of the container."""
    labels: dict[Key, LabelValue] = {}
    """Labels of the pod."""
    annotations: dict[Key, str] = {}
    """Annotations of the pod."""


class TrainingPodAdditions(PodAdditions):
    """What pods get that train."""

    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pod."""
    resources: dict[GpuResourceName, Annotated[int, Field(ge=1)]] = {}
    """How many of what other device plugins offer."""

    def beside(self, pods: PodAdditions) -> Self:
        """These with what all pods get; where both name the same, these count."""
        return self.model_copy(
            update={
                "env": pods.env | self.env,
                "labels": pods.labels | self.labels,
                "annotations": pods.annotations | self.annotations,
            }
        )


def to_any(template: Manifest, additions: PodAdditions) -> Manifest:
    """The template of a pod, with what any pod gets."""
    metadata, spec = template["metadata"], template["spec"]
    added = {"labels": additions.labels, "annotations": additions.annotations}
    metadata = metadata | {
        field: {**values, **metadata.get(field, {})} for field, values in added.items() if values
    }
    [container] = spec["containers"]
    container = container | {"env": [*_missing(container["env"], additions.env), *container["env"]]}
    return {"metadata": metadata, "spec": spec | {"containers": [container]}}


def to_training(template: Manifest, additions: TrainingPodAdditions) -> Manifest:
    """The template of a pod of a gang, with what such a pod gets."""
    template = to_any(template, additions)
    spec = template["spec"]
    if additions.runtime_class_name is not None:
        spec = spec | {"runtimeClassName": additions.runtime_class_name}
    if additions.resources:
        [container] = spec["containers"]
        resources = container["resources"]
        limits = {name: str(number) for name, number in additions.resources.items()}
        resources = resources | {"limits": limits | resources.get("limits", {})}
        spec = spec | {"containers": [container | {"resources": resources}]}
    return template | {"spec": spec}


def _missing(own: list[Manifest], added: Mapping[str, str]) -> list[Manifest]:
    known = {variable["name"] for variable in own}
    return [{"name": name, "value": value} for name, value in added.items() if name not in known]
