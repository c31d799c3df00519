"""Pure: what the API server says, as plain values to decide on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_api import names
from finetune_api.failure import PodEnd
from finetune_api.report import Report
from finetune_api.spec import FineTuneJob
from finetune_api.status import MAX_LOG_LENGTH, FineTuneJobStatus, last_lines
from finetune_operator import validation

Wire = Mapping[str, Any]
"""An object as it travels, parsed from JSON."""

# No trainer is asked to wait for longer between two Reports.
MAX_REPORT_INTERVAL_SECONDS = 300.0
# Ends of a container whose message is not its own.
_OTHERS_SPEAK = ("StartError", "ContainerCannotRun", "ContainerStatusUnknown")


@dataclass(frozen=True)
class Subject:
    """A FineTuneJob as the API server has it."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    job: FineTuneJob | None
    """None: the spec is invalid, see `problems`."""
    problems: tuple[str, ...]
    status: FineTuneJobStatus


@dataclass(frozen=True)
class GangJob:
    """The batch/v1 Job of an attempt, or of the preparation."""

    name: str
    uid: str
    attempt: int
    deleting: bool = False
    complete: bool = False
    failed: bool = False
    words: str = ""
    """Why it failed, as the Job controller says it."""
    created: datetime | None = None
    """When it was made."""
    config: str | None = None
    """The ConfigMap that its pods ask for."""

    @property
    def over(self) -> bool:
        """Whether no pod of it will run any more."""
        return self.complete or self.failed


@dataclass(frozen=True)
class Pod:
    """A pod of a gang, or of the preparation."""

    name: str
    job_uid: str
    """The Job that controls it."""
    index: int | None
    """Its rank among the gang's nodes; None for the preparation."""
    running: bool
    """Its container runs, or ran to a good end."""
    waiting: tuple[str, str] | None = None
    """Why it does not run yet: a word, and the words of the kubelet or of the scheduler."""
    end: PodEnd | None = None
    """How it failed, or is about to."""
    node: str | None = None
    """Where it runs, or is to run."""
    deleting: bool = False
    """It was asked to go, and has not gone yet."""
    due: datetime | None = None
    """When it should have gone: then its grace period is over."""
    created: datetime | None = None
    """When it was made."""
    started: datetime | None = None
    """When its container began to run."""
    finished: datetime | None = None
    """When its container ended."""
    report: Report | None = None
    """Its termination message, where that is a Report."""


@dataclass(frozen=True)
class Received:
    """A Report that came by POST."""

    report: Report
    job_uid: str
    """The batch/v1 Job whose pod sent it."""
    pod: str
    """Its name."""
    time: datetime
    """When it came. Every one that is kept has a higher sequence than the one before, so this is also when the sequence
    last advanced."""
    interval: float = 0
    """Seconds after which the next one was asked for: it cannot be missing before."""


@dataclass(frozen=True)
class Taken:
    """A name that an attempt needs, and that another object has."""

    kind: str
    name: str
    fading: bool
    """It belonged to a deleted FineTuneJob of the same name and is about to go."""


@dataclass(frozen=True)
class Owned:
    """Another object that belongs to a FineTuneJob."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True)
class Observed:
    """All that belongs to a FineTuneJob."""

    jobs: tuple[GangJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    report: Received | None = None
    others: tuple[Owned, ...] = ()
    """Its Service, NetworkPolicy and ConfigMaps; looked for only when they are to go."""
    taken: tuple[Taken, ...] = ()
    refusal: str | None = None
    """Why the API server does not let the attempt's objects be: a quota, a policy."""
    watching_since: datetime | None = None
    """When this operator began to listen for Reports; None if that was before the job began."""


def subject(wire: Wire) -> Subject:
    """Read a FineTuneJob; an invalid spec is a value, not an error."""
    metadata = wire["metadata"]
    job, problems = validation.read({key: value for key, value in wire.items() if key != "status"})
    return Subject(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        deleting="deletionTimestamp" in metadata,
        job=job,
        problems=tuple(problems),
        status=FineTuneJobStatus.model_validate(wire.get("status") or {}),
    )


def gang_job(wire: Wire, owner_uid: str) -> GangJob | None:
    """Read a Job; None if it is not one that the FineTuneJob of this uid controls."""
    metadata, status = wire["metadata"], wire.get("status", {})
    attempt = _attempt(metadata)
    if attempt is None or controller(wire).get("uid") != owner_uid:
        return None
    # FailureTarget stands from the first failure on, Failed only once every pod has ended.
    failed = _condition(status, "Failed") or _condition(status, "FailureTarget")
    return GangJob(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=attempt,
        deleting="deletionTimestamp" in metadata,
        complete=_condition(status, "Complete") is not None,
        failed=failed is not None,
        words=failed.get("message", "") if failed else "",
        created=_time(metadata.get("creationTimestamp")),
        config=_config(wire),
    )


def pod(wire: Wire, name: str) -> Pod | None:
    """Read a pod; None if it is no pod of an attempt of the FineTuneJob `name`, whatever its labels say."""
    metadata, status = wire["metadata"], wire.get("status", {})
    owner, attempt = controller(wire) or _former_owner(wire), _attempt(metadata)
    if attempt is None or owner.get("kind") != "Job":
        return None
    if owner["name"] != names.attempt_job_name(name, attempt):
        return None
    containers = {container["name"]: container for container in status.get("containerStatuses", [])}
    state = containers.get(names.TRAINER_CONTAINER, {}).get("state", {})
    terminated = state.get("terminated")
    report = _report(terminated.get("message", "")) if terminated else None
    index = metadata.get("labels", {}).get("batch.kubernetes.io/job-completion-index", "")
    return Pod(
        name=metadata["name"],
        job_uid=owner["uid"],
        index=int(index) if index.isdecimal() else None,
        # The container's good end is seen before the pod's.
        running="running" in state
        or bool(terminated and terminated["exitCode"] == 0)
        or status.get("phase") == "Succeeded",
        waiting=_waiting(status, state),
        end=_end(wire, terminated, report),
        node=wire.get("spec", {}).get("nodeName"),
        deleting="deletionTimestamp" in metadata,
        due=_time(metadata.get("deletionTimestamp")),
        created=_time(metadata.get("creationTimestamp")),
        started=_time((state.get("running") or terminated or {}).get("startedAt")),
        finished=_time((terminated or {}).get("finishedAt")),
        report=report,
    )


def newest_warning(wires: Sequence[Wire]) -> tuple[str, str] | None:
    """The event that happened last, as a word and a sentence; None if there is none."""
    newest = max(wires, key=_happened, default=None)
    return None if newest is None else (newest.get("reason", "Waiting"), newest.get("message", ""))


def taken(wire: Wire, by: Subject) -> Taken | None:
    """An object that has a name which the FineTuneJob `by` needs; None if it controls that object."""
    owner = controller(wire)
    if owner.get("uid") == by.uid:
        return None
    fading = owner.get("kind") == names.KIND and owner.get("name") == by.name
    return Taken(wire["kind"], wire["metadata"]["name"], fading)


def owned(kind: str, wire: Wire, owner_uid: str) -> Owned | None:
    """Read an object of another kind; None if it is not one that the FineTuneJob of this uid controls."""
    if controller(wire).get("uid") != owner_uid:
        return None
    return Owned(kind, wire["metadata"]["name"], wire["metadata"]["uid"])


def controller(wire: Wire) -> Wire:
    """The owner reference of the controller; empty if there is none."""
    owners: list[Wire] = wire["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), {})


def _former_owner(wire: Wire) -> Wire:
    """The Job of a pod that was orphaned and goes on: what it writes to, no other may write to beside it."""
    labels = wire["metadata"].get("labels", {})
    uid, name = labels.get("batch.kubernetes.io/controller-uid"), labels.get("batch.kubernetes.io/job-name")
    over = wire.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return {} if over or not (uid and name) else {"kind": "Job", "name": name, "uid": uid}


def _attempt(metadata: Wire) -> int | None:
    label = metadata.get("labels", {}).get(names.LABEL_ATTEMPT, "")
    return int(label) if label.isdecimal() else None


def _config(wire: Wire) -> str | None:
    volumes: list[Wire] = wire.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
    return next((volume["configMap"]["name"] for volume in volumes if "configMap" in volume), None)


def _time(stamp: str | None) -> datetime | None:
    return datetime.fromisoformat(stamp) if stamp else None


def _happened(event: Wire) -> datetime:
    # By v1's own time, or by those of events.k8s.io/v1, which the same object then has in its place.
    series = event.get("series") or {}
    stamp = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    return _time(stamp or event["metadata"]["creationTimestamp"]) or datetime.min.replace(tzinfo=UTC)


def _condition(status: Wire, type_: str) -> Wire | None:
    conditions: list[Wire] = status.get("conditions", [])
    return next((c for c in conditions if c["type"] == type_ and c["status"] == "True"), None)


def _waiting(status: Wire, state: Wire) -> tuple[str, str] | None:
    if "waiting" in state:
        waiting = state["waiting"]
        return waiting.get("reason", "Waiting"), waiting.get("message", "")
    unscheduled = [
        c for c in status.get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False"
    ]
    if unscheduled:
        return unscheduled[0].get("reason", "Unschedulable"), unscheduled[0].get("message", "")
    return None


def _end(wire: Wire, terminated: Wire | None, report: Report | None) -> PodEnd | None:
    metadata, status = wire["metadata"], wire.get("status", {})
    target = _condition(status, "DisruptionTarget")
    failed = status.get("phase") == "Failed" or bool(terminated and terminated["exitCode"] != 0)
    # A pod that the cluster is taking away may take its whole grace period; its peers need not wait for that.
    leaving = target is not None and "deletionTimestamp" in metadata and status.get("phase") != "Succeeded"
    if not failed and not leaving:
        return None
    told = terminated or {}
    # The container's word matters where the pod has none of its own.
    word, words = status.get("reason") or told.get("reason"), status.get("message")
    last_words = told.get("message", "").rstrip()
    if report is not None and report.failure is not None:
        message, log = report.failure.message, report.failure.log
    elif report is not None or not last_words:
        message, log = None, None
    elif told.get("reason") in _OTHERS_SPEAK:
        message, log, words = None, None, words or last_words
    else:
        # What it printed last, if it left no message.
        message, log = last_words.rpartition("\n")[2], last_lines(last_words, MAX_LOG_LENGTH)
    return PodEnd(
        pod=metadata["name"],
        exit_code=told.get("exitCode"),
        oom_killed=told.get("reason") == "OOMKilled",
        disruption=(target.get("message") or target.get("reason", "")) if target else None,
        reason=word,
        words=words,
        asked_to_go="deletionTimestamp" in metadata,
        message=message,
        node=wire.get("spec", {}).get("nodeName"),
        log=log,
    )


def _report(message: str) -> Report | None:
    # Whatever else a container leaves there is shown as it is.
    try:
        return Report.from_json(message)
    except ValueError:
        return None
