"""When and where the pods of a job run: queues, priorities, nodes."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from finetune_api.model import Rule, SpecModel
from finetune_api.scalars import SUBDOMAIN, cel

MAX_NODE_LABELS = 32
MAX_TOLERATIONS = 32

_OBJECT_NAME = rf"^{SUBDOMAIN}$"
# A label's value, and the part of its key after the domain.
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_QUALIFIED_NAME = rf"({SUBDOMAIN}/)?{_NAME}"

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=_OBJECT_NAME)]
# What becomes the value of a label: a queue's name, say.
LabelValue = Annotated[str, Field(max_length=63, pattern=rf"^({_NAME})?$")]
MAX_KEY_LENGTH = 317
LabelKey = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH, pattern=rf"^{_QUALIFIED_NAME}$")]

_KEYS = f"must have keys such as topology.kubernetes.io/zone, of at most {MAX_KEY_LENGTH} characters"


def _with_label_keys(selector: dict[str, str]) -> dict[str, str]:
    if not all(len(key) <= MAX_KEY_LENGTH and re.fullmatch(_QUALIFIED_NAME, key) for key in selector):
        raise ValueError(_KEYS)
    return selector


def _without_nulls(selector: Any) -> Any:
    # As the API server reads a map: null is absent.
    if not isinstance(selector, dict):
        return selector
    return {key: value for key, value in selector.items() if value is not None}


NodeSelector = Annotated[
    dict[str, LabelValue],
    Field(
        max_length=MAX_NODE_LABELS,
        # The same rule as _with_label_keys: a structural schema has none for keys, so CEL says it.
        json_schema_extra=cel(
            f"self.all(key, key.size() <= {MAX_KEY_LENGTH} && key.matches(r'^{_QUALIFIED_NAME}$'))", _KEYS
        ),
    ),
    AfterValidator(_with_label_keys),
    # Last: what comes before Field has pydantic take the bound for one of text.
    BeforeValidator(_without_nulls),
]


class Toleration(SpecModel):
    """A taint of nodes that the pods put up with, as Kubernetes has it."""

    key: Annotated[str, Field(max_length=317, pattern=rf"^({_QUALIFIED_NAME})?$")] = ""
    """Key of the taint; all taints if empty, with operator Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value matters."""
    value: LabelValue = ""
    """Value of the taint, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; all effects if left out."""
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """For how long, with effect NoExecute."""

    rules = (
        Rule(
            cel="self.operator == 'Equal' || self.value == ''",
            message="operator Exists takes no value: remove value, or set operator: Equal",
            holds=lambda toleration: toleration.operator == "Equal" or not toleration.value,
        ),
        Rule(
            cel="self.key != '' || self.operator == 'Exists'",
            message="without a key it must be operator: Exists, which tolerates every taint",
            holds=lambda toleration: bool(toleration.key) or toleration.operator == "Exists",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds is for effect: NoExecute: set that, or remove it",
            holds=lambda toleration: (
                toleration.toleration_seconds is None or toleration.effect == "NoExecute"
            ),
        ),
    )


class Scheduling(SpecModel):
    """When and where the job's pods run."""

    queue_name: Annotated[str, Field(min_length=1, max_length=63, pattern=_OBJECT_NAME)] | None = None
    """LocalQueue of Kueue in the job's namespace: the gang waits there until there is quota for all of it."""
    workload_priority_class_name: (
        Annotated[str, Field(min_length=1, max_length=63, pattern=_OBJECT_NAME)] | None
    ) = None
    """WorkloadPriorityClass of Kueue: who goes first in the queue, and who is preempted; needs queueName. That of
    priorityClassName if left out."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the gang's pods: who goes first at the scheduler, and who is preempted."""
    node_selector: NodeSelector = {}
    """Labels that the gang's nodes must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=MAX_TOLERATIONS)] = []
    """Taints that the gang's nodes may have."""
    topology_key: LabelKey | None = None
    """Label of nodes, such as topology.kubernetes.io/zone: all pods of the gang go to nodes with the same value."""
    scheduler_name: ObjectName | None = None
    """Scheduler of the gang's pods; the cluster's default if left out."""
    pod_group: Literal["Coscheduling", "Volcano"] | None = None
    """Whose PodGroup schedulerName understands: it then starts all pods of the gang or none."""

    rules = (
        Rule(
            cel="!has(self.workloadPriorityClassName) || has(self.queueName)",
            message="workloadPriorityClassName needs queueName: set it, or use priorityClassName",
            holds=lambda scheduling: (
                scheduling.workload_priority_class_name is None or scheduling.queue_name is not None
            ),
        ),
        Rule(
            cel="!has(self.podGroup) || has(self.schedulerName)",
            message="podGroup needs schedulerName: set it to the scheduler that understands it, or remove podGroup",
            holds=lambda scheduling: scheduling.pod_group is None or scheduling.scheduler_name is not None,
        ),
    )
