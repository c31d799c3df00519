"""How attempts end: causes, exit codes, and what follows from them.

The trainer turns a cause into an exit code; the operator turns what it sees of the pods into a verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum


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
    """How often in a row it may end attempts that reach no new step; None: as often as restarts are left."""


CAUSES: dict[ExitCode, Cause] = {
    ExitCode.ERROR: Cause("Error", Recovery.RESTART, patience=2),
    ExitCode.INVALID_DATA: Cause("InvalidData", Recovery.FAIL),
    ExitCode.OUT_OF_MEMORY: Cause(
        "OutOfMemory",
        Recovery.FAIL,
        "Lower spec.hyperparameters.maxSeqLen or maxTokensPerGpu, or give the job more GPUs.",
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
    ExitCode.GPU_ERROR: Cause("GpuError", Recovery.RESTART),
}
DISRUPTED = Cause("Disrupted", Recovery.RESUME)
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
OOM_KILLED = Cause(
    "OOMKilled", Recovery.FAIL, "Raise spec.resources.requests.memory, or lower maxTokensPerGpu."
)
OOM_KILLED_PREPARING = Cause(
    "OOMKilled",
    Recovery.FAIL,
    "The pod that prepares the data sets itself no limit: a LimitRange of the namespace does, or the node's memory. "
    "Raise it, or have the training pods prepare the data (spec.dataset.prepare: Inline).",
)


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
    message: str | None = None
    """What the trainer itself said of the cause."""
    node: str | None = None
    log: str | None = None
    """The end of what the trainer said."""


@dataclass(frozen=True)
class Verdict:
    """What ended an attempt and what follows."""

    reason: str
    message: str
    recovery: Recovery
    exit_code: int | None
    node: str | None
    log: str | None = None


def culprit(ends: Sequence[PodEnd]) -> PodEnd:
    """The end that explains the others; of several that tell equally much, the first."""
    return min(ends, key=_rank)


def judge(ends: Sequence[PodEnd], *, oom_killed: Cause = OOM_KILLED) -> Verdict:
    """Find, among the ends of a gang's pods, the one that brought the others down, and judge it.

    A cluster that takes pods away explains everything else. Then come causes that only the trainer can know,
    then those that one pod's death brings upon its peers: a peer's time-out, a kill, an unexplained error.
    `oom_killed` is what it means here that a container took too much memory.
    """
    if not ends:
        return Verdict(VANISHED.reason, "all pods of the attempt are gone", VANISHED.recovery, None, None)
    end = culprit(ends)
    cause = oom_killed if _cause(end) is OOM_KILLED else _cause(end)
    said = end.disruption if cause is DISRUPTED else end.message
    message = f"{end.pod}: {said or _observation(end, cause)}"
    if cause.advice and cause.advice not in message:
        message = f"{message.rstrip('.')}. {cause.advice}"
    return Verdict(cause.reason, message, cause.recovery, end.exit_code, end.node, end.log)


def _cause(end: PodEnd) -> Cause:
    if end.disruption is not None:
        return DISRUPTED
    if end.oom_killed:
        return OOM_KILLED
    if end.exit_code is None:
        return VANISHED
    return cause_of(end.exit_code)


# From the most to the least telling. FAIL causes that the trainer names stand between, see _rank.
_CONSEQUENCES = ("GpuError", "Killed", "PodVanished", "Error", "CollectiveTimeout", "Terminated")


def _rank(end: PodEnd) -> int:
    cause = _cause(end)
    if cause is DISRUPTED:
        return 0
    if cause.reason in _CONSEQUENCES:
        return 2 + _CONSEQUENCES.index(cause.reason)
    return 1


def _observation(end: PodEnd, cause: Cause) -> str:
    if cause.reason == OOM_KILLED.reason:
        return "the container used more memory than its limit and was killed"
    if end.exit_code is None:
        return "the pod is gone"
    return f"the trainer ended with exit code {end.exit_code}"
