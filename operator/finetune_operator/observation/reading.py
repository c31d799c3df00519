"""Pure: objects as the API server has them, read into the values of observed.py."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from finetune_api import names
from finetune_api.failure import PodEnd
from finetune_api.report import Report
from finetune_api.status import MAX_LOG_LENGTH, FineTuneJobStatus, last_lines
from finetune_operator import validation
from finetune_operator.kueue import PRIORITY_LABEL, QUEUE_LABEL
from finetune_operator.observation.observed import GangJob, Owned, Pod, Subject, Taken

Wire = Mapping[str, Any]
"""An object as it travels, parsed from JSON."""

# Ends of a container whose message is not its own.
_OTHERS_SPEAK = ("StartError", "ContainerCannotRun", "ContainerStatusUnknown")


class UnreadableStatusError(Exception):
    """A status that is not of this version: another version wrote it, or somebody by hand."""

    def __init__(self, subject: Subject, faults: Sequence[str], told: Sequence[Wire]) -> None:
        super().__init__(
            f"the status cannot be read, and nothing is done about the job until it can be: {'; '.join(faults)}"
        )
        self.subject = subject
        """The FineTuneJob as if it had no status: to tell about it, not to decide on."""
        self.told = told
        """Its conditions, as they travel."""


def subject(wire: Wire) -> Subject:
    """Read a FineTuneJob; an invalid spec is a value, not an error. Raises UnreadableStatusError."""
    metadata = wire["metadata"]
    job, problems = validation.read({key: value for key, value in wire.items() if key != "status"})
    found = Subject(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        deleting="deletionTimestamp" in metadata,
        job=job,
        problems=tuple(problems),
        status=FineTuneJobStatus(),
    )
    try:
        # Statuses are validated as they are read: what is decided rests on them.
        return replace(found, status=FineTuneJobStatus.model_validate(wire.get("status") or {}))
    except ValidationError as error:
        faults = [
            f"status{fault.field and '.'}{fault.field}: {fault.message}"
            for fault in validation.faults(error, FineTuneJobStatus)
        ]
        raise UnreadableStatusError(found, faults, wire["status"].get("conditions") or ()) from error


def gang_job(wire: Wire, owner_uid: str) -> GangJob | None:
    """Read a Job; None if it is not that of a step of the FineTuneJob of this uid, whatever its labels say."""
    metadata, status = wire["metadata"], wire.get("status", {})
    attempt, owner = _attempt(metadata), controller(wire)
    if attempt is None or owner.get("uid") != owner_uid:
        return None
    # Anybody may name the FineTuneJob as owner of anything; there is one name under which a step's Job is made.
    if metadata["name"] != names.attempt_job_name(owner["name"], attempt):
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
        queue=metadata.get("labels", {}).get(QUEUE_LABEL),
        priority=metadata.get("labels", {}).get(PRIORITY_LABEL),
        suspended=bool(wire.get("spec", {}).get("suspend")),
        started=_time(status.get("startTime")),
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
    due = _time(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
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
        asked=due - grace if due is not None else None,
        due=due,
        created=_time(metadata.get("creationTimestamp")),
        started=_time((state.get("running") or terminated or {}).get("startedAt")),
        finished=_time((terminated or {}).get("finishedAt")),
        beside=_running_beside(containers) if terminated else (),
        report=report,
    )


def newest_warning(wires: Sequence[Wire]) -> tuple[str, str] | None:
    """The event that happened last, as a word and a sentence; None if there is none."""
    newest = max(wires, key=happened, default=None)
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
    metadata = wire["metadata"]
    return Owned(kind, metadata["name"], metadata["uid"], wire.get("apiVersion", ""))


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
    return names.labelled_attempt(metadata.get("labels", {}).get(names.LABEL_ATTEMPT, ""))


def _config(wire: Wire) -> str | None:
    volumes: list[Wire] = wire.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
    return next((volume["configMap"]["name"] for volume in volumes if "configMap" in volume), None)


def _time(stamp: str | None) -> datetime | None:
    return datetime.fromisoformat(stamp) if stamp else None


def happened(event: Wire) -> datetime:
    """When an event happened last."""
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


def _running_beside(containers: Mapping[str, Wire]) -> tuple[str, ...]:
    return tuple(
        name
        for name, container in sorted(containers.items())
        if name != names.TRAINER_CONTAINER and "running" in container.get("state", {})
    )


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
    failure = report.failure if report is not None else None
    if failure is not None:
        message, log = failure.message, failure.log
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
        # A container may still be killed after it has written that.
        reported=failure is not None and failure.exit_code == told.get("exitCode"),
        node=wire.get("spec", {}).get("nodeName"),
        log=log,
    )


def _report(message: str) -> Report | None:
    # Whatever else a container leaves there is shown as it is.
    try:
        return Report.from_json(message)
    except ValueError:
        return None
