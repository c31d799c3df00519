"""How attempts end: causes, exit codes, and what follows from them.

The trainer turns a cause into an exit code; the operator turns what it sees of the pods into a verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType


class ExitCode(IntEnum):
    """Exit codes of the trainer container. Those below 80 follow sysexits(3) where it has a word for it."""

    SUCCESS = 0
    ERROR = 1
    INVALID_DATA = 65
    OUT_OF_MEMORY = 71
    STORAGE_FULL = 74
    SMALLER_BUDGET = 75
    UNTRUSTED_FILE = 76
    ACCESS_DENIED = 77
    INVALID_CONFIGURATION = 78
    LOSS_NOT_FINITE = 79
    KILLED = 137
    TERMINATED = 143
    COLLECTIVE_TIMEOUT = 200
    GPU_ERROR = 201


class Recovery(Enum):
    """What an end asks for."""

    RESUME = "start again, at the cost of one of failurePolicy.maxDisruptions"
    RESTART = "start again, at the cost of one of failurePolicy.maxRestarts"
    FAIL = "give up: it would happen again"


@dataclass(frozen=True)
class Cause:
    """A kind of end: a word for status and events, what to do about it, and advice for people."""

    reason: str
    recovery: Recovery
    advice: str = ""
    patience: int | None = None
    """How often it is tried again while no new step is reached; None: as often as restarts are left."""


CAUSES: dict[ExitCode, Cause] = {
    ExitCode.ERROR: Cause("Error", Recovery.RESTART, patience=2),
    ExitCode.INVALID_DATA: Cause("InvalidData", Recovery.FAIL),
    ExitCode.OUT_OF_MEMORY: Cause(
        "OutOfMemory",
        Recovery.FAIL,
        "Lower spec.hyperparameters.maxSeqLen, or give the job more or larger GPUs (spec.resources).",
    ),
    ExitCode.STORAGE_FULL: Cause(
        "StorageFull", Recovery.FAIL, "Free or enlarge the claim named by spec.storage.claimName."
    ),
    # The trainer mends this without ending its pod; where that fails, the next attempt starts with the smaller budget.
    ExitCode.SMALLER_BUDGET: Cause("TokenBudgetHalved", Recovery.RESUME),
    ExitCode.UNTRUSTED_FILE: Cause("UntrustedFile", Recovery.FAIL),
    ExitCode.ACCESS_DENIED: Cause("AccessDenied", Recovery.FAIL),
    ExitCode.INVALID_CONFIGURATION: Cause("InvalidConfiguration", Recovery.FAIL),
    ExitCode.LOSS_NOT_FINITE: Cause(
        "LossNotFinite",
        Recovery.FAIL,
        "Lower spec.hyperparameters.learningRate or raise warmupSteps, and look for damaged samples.",
    ),
    ExitCode.KILLED: Cause("Killed", Recovery.RESTART),
    ExitCode.TERMINATED: Cause("Terminated", Recovery.RESUME),
    ExitCode.COLLECTIVE_TIMEOUT: Cause("CollectiveTimeout", Recovery.RESTART),
    ExitCode.GPU_ERROR: Cause("GpuError", Recovery.RESTART, "Further attempts avoid this node."),
}
DISRUPTED = Cause("Disrupted", Recovery.RESUME)
# A node that runs short takes pods away, but it may be this very pod that makes it short: then it would do so again.
EVICTED = Cause(
    "Evicted",
    Recovery.RESTART,
    "If it was memory that ran short, set spec.resources.requests.memory: pods that keep to it are evicted last.",
)
# Its own limit, not the node's shortage: the same pod would meet it again.
LIMIT_EXCEEDED = Cause(
    "LimitExceeded",
    Recovery.FAIL,
    "Volume shm is /dev/shm: raise spec.resources.sharedMemory. Other limits of storage are the namespace's.",
)
# No pod of this gang can have run, or none on this node: it need not be so on another one.
START_ERROR = Cause(
    "StartError",
    Recovery.RESTART,
    "The container could not be started: look after the trainer image, and the node's container runtime and drivers.",
    patience=2,
)
REJECTED = Cause("PodRejected", Recovery.RESTART)
CONTAINER_LOST = Cause("ContainerLost", Recovery.RESTART)
VANISHED = Cause("PodVanished", Recovery.RESTART)
HUNG = Cause(
    "Hung",
    Recovery.RESTART,
    "Where a sign of life takes longer, raise spec.failurePolicy.progressDeadlineSeconds.",
)
NOT_STARTED = Cause(
    "StartupDeadlineExceeded",
    Recovery.RESTART,
    "Where nodes and images take longer, raise spec.failurePolicy.startupDeadlineSeconds.",
)
OVERDUE = Cause(
    "DeadlineExceeded", Recovery.FAIL, "spec.failurePolicy.activeDeadlineSeconds was not enough time."
)
SUSPENDED = Cause("Suspended", Recovery.RESUME)
# Not restarted blindly: the same pod would meet the same limit.
OOM_KILLED = Cause("OOMKilled", Recovery.FAIL, "Raise spec.resources.requests.memory.")

# What the kubelet calls the end of a pod, and of a container, where that tells more than an exit code does.
_POD_ENDS = {
    # Room for a critical pod, a node that shuts down, or one that was given up.
    "Preempting": DISRUPTED,
    "Terminated": DISRUPTED,
    "NodeShutdown": DISRUPTED,
    "Shutdown": DISRUPTED,
    "NodeLost": DISRUPTED,
    # Of the pod's own activeDeadlineSeconds, which somebody's policy has set.
    "DeadlineExceeded": DISRUPTED,
}
_CONTAINER_ENDS = {
    "StartError": START_ERROR,
    "ContainerCannotRun": START_ERROR,
    # The kubelet's word, and containerd's: it, or its node, was restarted.
    "ContainerStatusUnknown": CONTAINER_LOST,
    "Unknown": CONTAINER_LOST,
}


def cause_of(exit_code: int) -> Cause:
    """The cause behind an exit code; codes that are not ours are plain errors."""
    try:
        return CAUSES[ExitCode(exit_code)]
    except (ValueError, KeyError):
        return CAUSES[ExitCode.ERROR]


@dataclass(frozen=True)
class PodEnd:
    """How one pod of a gang ended, as far as it can be seen."""

    pod: str
    exit_code: int | None = None
    """None: the pod is gone, or its container never ran."""
    oom_killed: bool = False
    disruption: str | None = None
    """Message of the pod's DisruptionTarget condition."""
    reason: str | None = None
    """The kubelet's word for the end of the pod, or else of its container."""
    words: str | None = None
    """What the kubelet said about it."""
    asked_to_go: bool = False
    """The pod was being deleted when its container ended."""
    message: str | None = None
    """What the trainer itself said of the cause."""
    reported: bool = False
    """The trainer lived to report it: the exit code is its own word, and nobody killed the container."""
    node: str | None = None
    log: str | None = None
    """The end of what the trainer said."""


@dataclass(frozen=True)
class Verdict:
    """What ended an attempt and what follows."""

    reason: str
    message: str
    recovery: Recovery
    exit_code: int | None = None
    node: str | None = None
    log: str | None = None
    patience: int | None = None
    """See Cause."""


def culprit(ends: Sequence[PodEnd]) -> PodEnd:
    """The end that explains the others; of several that tell equally much, the first.

    Not simply the first of all: a container ends up to a grace period after what ended it, by the clock of its node.
    """
    return min(ends, key=_rank)


def judge(ends: Sequence[PodEnd], *, advice: Mapping[str, str] = MappingProxyType({})) -> Verdict:
    """Find, among the ends of a gang's pods, the one that brought the others down, and judge it.

    A cluster that takes pods away explains everything else. Then come causes that only the trainer can know,
    then those that one pod's death brings upon its peers: a peer's time-out, a kill, an unexplained error.
    `advice` has what is known to help this very job, by the cause's reason.
    """
    if not ends:
        return Verdict(VANISHED.reason, "all pods of the attempt are gone", VANISHED.recovery)
    end = culprit(ends)
    cause = _cause(end)
    message = f"{end.pod}: {_said(end, cause)}"
    remedy = advice.get(cause.reason)
    # A trainer that names fields of the spec has said better what to do than what holds of all jobs.
    if remedy is None and (cause in _THE_CLUSTERS or "spec." not in (end.message or "")):
        remedy = cause.advice
    if remedy:
        message = f"{message.rstrip('.')}. {remedy}"
    return Verdict(
        cause.reason, message, cause.recovery, end.exit_code, end.node, end.log, patience=cause.patience
    )


def decided(cause: Cause, message: str, *, node: str | None = None) -> Verdict:
    """The verdict on pods that did not end, but were ended for this cause."""
    message = f"{message.rstrip('.')}. {cause.advice}" if cause.advice else message
    return Verdict(cause.reason, message, cause.recovery, node=node, patience=cause.patience)


def _cause(end: PodEnd) -> Cause:
    if end.reason == "Evicted":
        # A kubelet that is short of something says so in the condition; a pod over its own limit has none.
        return LIMIT_EXCEEDED if end.disruption is None else EVICTED
    if end.disruption is not None:
        return DISRUPTED
    if end.oom_killed:
        return OOM_KILLED
    if end.reason in _POD_ENDS:
        return _POD_ENDS[end.reason]
    if end.reason in _CONTAINER_ENDS:
        return _CONTAINER_ENDS[end.reason]
    if end.exit_code is None:
        return VANISHED if end.reason is None else REJECTED
    if end.asked_to_go and end.exit_code == ExitCode.KILLED and not end.reported:
        # That is how a grace period ends.
        return CAUSES[ExitCode.TERMINATED]
    return cause_of(end.exit_code)


# What the cluster does to a pod, whatever the pod did.
_THE_CLUSTERS = (DISRUPTED, EVICTED)
# From the most to the least telling of what does not speak for itself.
_CONSEQUENCES = (
    CAUSES[ExitCode.GPU_ERROR],
    START_ERROR,
    CONTAINER_LOST,
    CAUSES[ExitCode.KILLED],
    CAUSES[ExitCode.SMALLER_BUDGET],
    REJECTED,
    VANISHED,
    CAUSES[ExitCode.ERROR],
    CAUSES[ExitCode.COLLECTIVE_TIMEOUT],
    CAUSES[ExitCode.TERMINATED],
)


def _rank(end: PodEnd) -> int:
    cause = _cause(end)
    if cause in _THE_CLUSTERS:
        return 0
    if cause in _CONSEQUENCES:
        return 2 + _CONSEQUENCES.index(cause)
    return 1


def _said(end: PodEnd, cause: Cause) -> str:
    if cause in _THE_CLUSTERS:
        return end.disruption or end.words or f"the cluster took it away ({end.reason})"
    if cause is REJECTED:
        return (
            f"{end.reason}: {end.words}" if end.words else f"it was not admitted to its node ({end.reason})"
        )
    if cause is OOM_KILLED:
        return "the container used more memory than its limit and was killed"
    return end.message or end.words or _observation(end, cause)


def _observation(end: PodEnd, cause: Cause) -> str:
    if end.exit_code is None:
        return "the pod is gone"
    if end.exit_code == ExitCode.KILLED and end.asked_to_go:
        return "it was asked to end, and was killed when its grace period was over"
    if cause is CAUSES[ExitCode.KILLED]:
        return "the container was killed (exit code 137), and not for its memory limit"
    if cause is CONTAINER_LOST:
        return f"its container was lost ({end.reason}): its node or the container runtime was restarted"
    return f"the trainer ended with exit code {end.exit_code}"
