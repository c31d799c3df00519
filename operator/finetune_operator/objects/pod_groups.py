"""Pure: the PodGroup by which a scheduler that knows gangs starts all pods of one, or none."""

from typing import Any, NamedTuple

from finetune_api.scheduling import Scheduling

Manifest = dict[str, Any]


class Kind(NamedTuple):
    """A scheduler's kind of PodGroup, and how its pods say that they belong to one."""

    api_version: str
    field: str
    """labels or annotations"""
    key: str


KINDS = {
    # https://github.com/kubernetes-sigs/scheduler-plugins, plug-in Coscheduling
    "Coscheduling": Kind("scheduling.x-k8s.io/v1alpha1", "labels", "scheduling.x-k8s.io/pod-group"),
    # https://volcano.sh
    "Volcano": Kind("scheduling.volcano.sh/v1beta1", "annotations", "scheduling.k8s.io/group-name"),
}
KIND = "PodGroup"


def group(scheduling: Scheduling, metadata: Manifest, *, nodes: int, start_within: int) -> list[Manifest]:
    """The PodGroup of a gang of so many pods; none where the scheduler is not to know of it.

    `start_within` is the number of seconds that the gang has to start anyway.
    """
    if scheduling.pod_group is None:
        return []
    spec: Manifest = {"minMember": nodes}
    if scheduling.pod_group == "Coscheduling":
        spec["scheduleTimeoutSeconds"] = start_within
    elif scheduling.priority_class_name is not None:
        spec["priorityClassName"] = scheduling.priority_class_name
    version = KINDS[scheduling.pod_group].api_version
    return [{"apiVersion": version, "kind": KIND, "metadata": metadata, "spec": spec}]


def missing(group: Manifest) -> str:
    """What it means that the cluster does not know a PodGroup of this kind."""
    return (
        f"spec.scheduling.podGroup: the cluster has no PodGroups of {group['apiVersion']}: install the scheduler that "
        "brings them, or remove podGroup"
    )


def joined(metadata: Manifest, scheduling: Scheduling, name: str) -> Manifest:
    """A pod's metadata with that by which it belongs to the PodGroup of this name, if it is to belong to one."""
    if scheduling.pod_group is None:
        return metadata
    kind = KINDS[scheduling.pod_group]
    return metadata | {kind.field: metadata.get(kind.field, {}) | {kind.key: name}}
