"""What jobs there are, and what goes wrong when: drawn by lot, the same again from the same seed."""

import random
from dataclasses import dataclass
from enum import StrEnum


class Ending(StrEnum):
    """How a job is meant to end."""

    SUCCEEDED = "succeeded"
    RESUMED = "suspended, resumed and succeeded"
    DELETED = "deleted in the middle"
    INVALID_DATA = "failed: InvalidData"
    LOSS_NOT_FINITE = "failed: LossNotFinite"
    INVALID_CONFIGURATION = "failed: InvalidConfiguration"
    REFUSED = "refused by the API server"


# How often each is drawn, in a hundred.
_ENDINGS = {
    Ending.SUCCEEDED: 55,
    Ending.RESUMED: 12,
    Ending.DELETED: 13,
    Ending.INVALID_DATA: 6,
    Ending.LOSS_NOT_FINITE: 6,
    Ending.INVALID_CONFIGURATION: 4,
    Ending.REFUSED: 4,
}


@dataclass(frozen=True)
class JobPlan:
    """One job, and how it is meant to end."""

    name: str
    method: str
    nodes: int
    epochs: int
    inline: bool
    """Whether the gang prepares its data itself."""
    evaluated: bool
    """Whether a part of the data is held back, which may end training before its last epoch."""
    merged: bool
    """Whether an adapter is merged in the end."""
    ending: Ending
    moment: float
    """Seconds after which it is deleted, or suspended once it trains."""


def job(seed: int, number: int) -> JobPlan:
    """The job of this number; others do not change it."""
    draw = random.Random(f"job {seed} {number}")
    method = draw.choice(["sft", "osft", "lora"])
    [ending] = draw.choices(list(_ENDINGS), list(_ENDINGS.values()))
    return JobPlan(
        name=f"{method}-{number:03}",
        method=method,
        nodes=1 if draw.random() < 0.65 else 2,
        epochs=draw.randint(3, 12),
        inline=draw.random() < 0.3,
        evaluated=draw.random() < 0.3,
        merged=method == "lora" and draw.random() < 0.4,
        ending=ending,
        moment=draw.uniform(2, 40) if ending is Ending.DELETED else draw.uniform(0, 8),
    )


class Fault(StrEnum):
    """What goes wrong."""

    KILL_TRAINER = "a trainer's process is killed"
    DELETE_POD = "a pod is deleted"
    DELETE_POD_AT_ONCE = "a pod is deleted without grace"
    EVICT_POD = "a pod is evicted"
    DELETE_JOB = "an attempt's Job is deleted"
    DELETE_CONFIG_MAP = "a ConfigMap is deleted"
    DELETE_SERVICE = "a Service is deleted"
    DELETE_NETWORK_POLICY = "a NetworkPolicy is deleted"
    CUT_OPERATOR = "the operator is without network"
    KILL_OPERATOR = "the operator is killed"
    KILL_KUBELET = "the kubelet is killed"
    KILL_CONTAINERD = "containerd is killed"
    KILL_API_SERVER = "the API server is killed"
    KILL_CONTROLLER_MANAGER = "the controller manager is killed"


# How often each is drawn, compared with the others.
_FAULTS = {
    Fault.KILL_TRAINER: 6,
    Fault.DELETE_POD: 4,
    Fault.DELETE_POD_AT_ONCE: 3,
    Fault.EVICT_POD: 4,
    Fault.DELETE_JOB: 3,
    Fault.DELETE_CONFIG_MAP: 2,
    Fault.DELETE_SERVICE: 2,
    Fault.DELETE_NETWORK_POLICY: 2,
    Fault.CUT_OPERATOR: 3,
    Fault.KILL_OPERATOR: 3,
    Fault.KILL_KUBELET: 2,
    Fault.KILL_CONTAINERD: 2,
    Fault.KILL_API_SERVER: 2,
    Fault.KILL_CONTROLLER_MANAGER: 1,
}
_MEAN_GAP, _LEAST_GAP = 20.0, 6.0


@dataclass(frozen=True)
class FaultPlan:
    """One fault."""

    second: float
    """When it strikes, from the start."""
    fault: Fault
    choice: float
    """From 0 to 1: which of those that it may strike, by their order."""


def faults(seed: int, seconds: float) -> list[FaultPlan]:
    """All faults of a run of so many seconds, in order.

    The operator is not killed in the second half: one process has to live through it, or its memory and descriptors
    would begin anew and no trend could be seen in them.
    """
    draw = random.Random(f"faults {seed}")
    found = []
    now = 0.0
    while (now := now + _LEAST_GAP + draw.expovariate(1 / (_MEAN_GAP - _LEAST_GAP))) < seconds:
        known = [fault for fault in _FAULTS if fault is not Fault.KILL_OPERATOR or now < seconds / 2]
        [fault] = draw.choices(known, [_FAULTS[fault] for fault in known])
        found.append(FaultPlan(now, fault, draw.random()))
    return found
