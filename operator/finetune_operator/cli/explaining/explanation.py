"""Pure: the cause, the evidence, what to do, and what happens by itself."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api import names
from finetune_api.reasons import REASONS, Outlook
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator import kueue
from finetune_operator.cli.explaining.evidence import evidence, pods
from finetune_operator.cli.explaining.sight import Sight
from finetune_operator.lifecycle import gang, publishing
from finetune_operator.status import conditions
from finetune_operator.status.progress import duration

# Words that say that something waits, and not for what: a warning about the same thing tells more.
_VAGUE = frozenset(
    {
        "CreatingPods",
        "PodsPending",
        "ContainerCreating",
        "PodInitializing",
        "Waiting",
        "WaitingForReport",
        "Queued",
    }
)

# What is to be done about a job that has failed of what passes by itself.
_TOO_OFTEN = (
    "It ended more often than it may without a new state in between (status.attempts). See why that is, and in a new "
    "FineTuneJob have states saved more often (checkpoints.everyMinutes), or raise failurePolicy.maxDisruptions or "
    "maxRestarts."
)
_NOTHING = "Nothing need be done."

# Kueue has the same reason for what will come to pass and for what never will.
_NEVER_FITS = ("maximum capacity", "unavailable in ClusterQueue")


@dataclass(frozen=True)
class Explanation:
    """Why a job stands where it stands."""

    summary: str
    """Where it stands, and why, in a sentence."""
    reason: str
    means: str
    evidence: tuple[str, ...]
    remedy: str
    by_itself: str
    outlook: Outlook
    hidden: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "summary": self.summary,
            "reason": self.reason,
            "means": self.means,
            "needsAttention": self.outlook is Outlook.ACT,
            "evidence": list(self.evidence),
            "whatToDo": self.remedy,
            "byItself": self.by_itself,
            "notSeen": list(self.hidden),
        }


def explain(sight: Sight, now: datetime) -> Explanation:
    """Explain where a job stands."""
    subject, status = sight.subject, sight.subject.status
    job = f"{names.SINGULAR}/{subject.name}"
    if subject.deleting:
        return Explanation(
            f"{job} is being deleted",
            "Deleted",
            "The job was deleted, and what belongs to it is going.",
            tuple(pods(sight)),
            "",
            "It is gone when its last pod has ended, after its grace period at the latest.",
            Outlook.PASSES,
            sight.hidden,
        )
    if status.phase is None and not status.conditions:
        return Explanation(
            f"no operator has looked at {job} yet",
            "NotObserved",
            "The job was created, and its status is empty.",
            (f"status.observedGeneration is {status.observed_generation}",),
            "Where it stays so for more than a minute: is the operator running (kubectl get deploy -A -l "
            "app.kubernetes.io/name=finetune-operator), and does it watch this namespace (watchNamespaces of "
            "its chart)?",
            "The operator takes it on within seconds.",
            Outlook.ACT,
            sight.hidden,
        )
    reason, message = _cause(sight)
    entry = REASONS.get(reason)
    since = _since(status)
    lasting = f" for {duration((now - since).total_seconds())}" if since is not None else ""
    outlook = entry.outlook if entry is not None else Outlook.PASSES
    remedy = entry.remedy if entry is not None else ""
    if status.phase is Phase.FAILED and outlook is Outlook.PASSES:
        remedy = f"{_TOO_OFTEN} {remedy.removeprefix(_NOTHING)}".strip()
    if status.phase is Phase.FAILED or (status.phase is Phase.QUEUED and _never_fits(message)):
        outlook = Outlook.ACT
    return Explanation(
        f"{job} is {status.phase or 'not accepted'}{lasting}: {message}",
        reason,
        entry.means if entry is not None else "This reason is not one that is known here; its message tells.",
        tuple(evidence(sight, now)),
        remedy,
        _by_itself(status, entry.by_itself if entry is not None else ""),
        outlook,
        sight.hidden,
    )


def _cause(sight: Sight) -> tuple[str, str]:
    """The word and the sentence that tell most."""
    status = sight.subject.status
    told = conditions.find(status.conditions, _telling(sight))
    reason, message = (told.reason, told.message) if told is not None else (str(status.phase), "")
    newest = sight.newest
    if sight.workload is not None and newest is not None and newest.queue is not None:
        reason, message = kueue.wait(sight.workload, newest.queue, newest.priority)
    if reason in _VAGUE:
        hindered = gang.hindered(sight.pods)
        about = [hindered.name] if hindered is not None else []
        about += [newest.name] if newest is not None and not sight.pods else []
        for name in about:
            if name in sight.warnings:
                word, words = sight.warnings[name]
                return word, f"{name}: {words}"
    return reason, message


def _never_fits(message: str) -> bool:
    """Whether Kueue says that there is not so much at all, whoever else goes."""
    return any(words in message for words in _NEVER_FITS)


def _telling(sight: Sight) -> str:
    """The condition that tells where the job stands."""
    status = sight.subject.status
    if status.phase is Phase.SUCCEEDED and status.publication and not publishing.is_settled(sight.subject):
        return conditions.PUBLISHED
    if status.phase is Phase.SUCCEEDED and publishing.has_failed(status):
        return conditions.PUBLISHED
    return conditions.READY


def _since(status: FineTuneJobStatus) -> datetime | None:
    ready = conditions.find(status.conditions, conditions.READY)
    if status.phase is Phase.QUEUED and status.queue is not None:
        return status.queue.waiting_since
    if status.phase is not None and (status.phase.is_terminal or status.phase is Phase.SUSPENDED):
        return ready.last_transition_time if ready is not None else None
    return None


def _by_itself(status: FineTuneJobStatus, usual: str) -> str:
    if status.phase is Phase.FAILED:
        return "Nothing: a job that has failed stays so. Its checkpoints stay on the volume."
    return usual
