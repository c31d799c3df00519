"""Pure: what holds at every moment of a history, whatever befell the operator. Each returns violations, in words."""

import json
from collections.abc import Iterator, Sequence

from chaos.changes import Change, Wire
from chaos.proxy import Request
from finetune_api import names

OVER = ("Succeeded", "Failed")
OWNED = ("Job", "ConfigMap", "Service", "NetworkPolicy")


def violations(changes: Sequence[Change], requests: Sequence[Request], namespace: str) -> list[str]:
    """All that is wrong with a history (in order), and with what operators asked for meanwhile."""
    found = [
        *one_gang_at_a_time(changes),
        *restricted(changes, requests),
        *owned(changes),
        *attempts_stand(changes),
        *terminal_is_final(changes),
        *suspended_holds_nothing(changes),
        *phase_and_conditions_agree(changes),
        *steps_do_not_fall(changes),
        *writes_are_allowed(requests, namespace),
    ]
    return list(dict.fromkeys(found))


def one_gang_at_a_time(changes: Sequence[Change]) -> Iterator[str]:
    """Pods that can run are of one batch/v1 Job for each FineTuneJob, deleted namesakes included."""
    alive: dict[str, Change] = {}
    for change in _in_time(changes):
        if not _follow(alive, change):
            continue
        for other in alive.values():
            if other.job == change.job and _controller(other) != _controller(change):
                yield f"one gang at a time: {other.name} and {change.name} of {change.job} live together"


def restricted(changes: Sequence[Change], requests: Sequence[Request] = ()) -> Iterator[str]:
    """Every pod keeps to the restricted Pod Security Standard: by what it says, and by what the API server says."""
    for request in requests:
        if "PodSecurity" in (request.warning or ""):
            yield f"restricted: {request.asked.path}: {request.warning}"
    for change in changes:
        if change.kind != "Pod" or change.job is None:
            continue
        spec = change.wire["spec"]
        whole = spec.get("securityContext", {})
        if any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"restricted: {change.name} shares its host's namespaces"
        if any("hostPath" in volume for volume in spec.get("volumes", [])):
            yield f"restricted: {change.name} mounts a path of its host"
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            own = {**whole, **container.get("securityContext", {})}
            sound = (
                own.get("runAsNonRoot") is True
                and own.get("allowPrivilegeEscalation") is False
                and not own.get("privileged")
                and own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost")
                and "ALL" in own.get("capabilities", {}).get("drop", [])
            )
            if not sound:
                yield f"restricted: container {container['name']} of {change.name} may do too much"


def owned(changes: Sequence[Change]) -> Iterator[str]:
    """What is labelled with a FineTuneJob is controlled by one that there was under this name; a pod, by its Job."""
    known: set[tuple[str, str, str]] = set()
    for change in changes:
        known.add((change.kind, change.name, change.uid))
        if change.job is None or change.kind not in (*OWNED, "Pod") or change.type == "DELETED":
            continue
        controller = change.controller
        if controller is None:
            yield f"owned: {change.kind} {change.name} has no controller"
        elif (controller["kind"], controller["name"], controller["uid"]) not in known:
            yield f"owned: {change.kind} {change.name} is controlled by {controller}, which there never was"
        elif change.kind != "Pod" and (controller["kind"], controller["name"]) != (names.KIND, change.job):
            yield f"owned: {change.kind} {change.name} is controlled by {controller}"


def attempts_stand(changes: Sequence[Change]) -> Iterator[str]:
    """Attempts are numbered in order, none is forgotten that is the newest, and what is on record stays so."""
    for job, before, after in _turns(changes):
        old, new = ({a["number"]: a for a in s.get("attempts", [])} for s in (before, after))
        numbers = list(new)
        if numbers != sorted(numbers):
            yield f"attempts stand: those of {job} are {numbers}"
        if max(old, default=0) > max(new, default=0):
            yield f"attempts stand: {job} had attempt {max(old)} and has {max(new, default=0)}"
        for number in old.keys() & new.keys():
            was, now = old[number], new[number]
            if was["startTime"] != now["startTime"]:
                yield f"attempts stand: attempt {number} of {job} began at {was['startTime']} and {now['startTime']}"
            # One that was ended to suspend it may turn out to have been done.
            if "endTime" in was and was != now and was.get("reason") != "Suspended":
                yield f"attempts stand: attempt {number} of {job} ended as {was}, and then as {now}"
        for number in new.keys() - old.keys():
            earlier = new.get(number - 1)
            if earlier is not None and "endTime" not in earlier:
                yield f"attempts stand: attempt {number} of {job} began before {number - 1} had ended"


def terminal_is_final(changes: Sequence[Change]) -> Iterator[str]:
    """A job that began and is over stays as it is, and no Job that trains or prepares is made for it any more."""
    over: dict[str, str] = {}
    known: dict[str, Wire] = {}
    for change in changes:
        if change.kind == "FineTuneJob" and change.type != "DELETED":
            before, after = known.get(change.uid, {}), change.status
            known[change.uid] = after
            if change.uid in over:
                for field in ("phase", "completionTime"):
                    if before.get(field) != after.get(field):
                        was, now = before.get(field), after.get(field)
                        yield f"terminal is final: {field} of {change.name} was {was} and is {now}"
            elif after.get("phase") in OVER and "startTime" in after:
                over[change.uid] = change.name
        if (change.kind, change.type) == ("Job", "ADDED") and change.attempt != names.PUBLISHING:
            owner = change.controller
            if owner is not None and owner["uid"] in over:
                yield f"terminal is final: {change.name} was made for {over[owner['uid']]}, which was over"


def suspended_holds_nothing(changes: Sequence[Change]) -> Iterator[str]:
    """As long as a job that began is said to be suspended, no pod of it can run."""
    suspended: set[str] = set()
    alive: dict[str, Change] = {}
    for change in _in_time(changes):
        if change.kind == "FineTuneJob":
            rests = change.status.get("phase") == "Suspended" and "startTime" in change.status
            if rests and change.type != "DELETED":
                suspended.add(change.name)
            else:
                suspended.discard(change.name)
        _follow(alive, change)
        for pod in alive.values():
            if pod.job in suspended:
                yield f"suspended holds nothing: {pod.name} of {pod.job} can run"


def phase_and_conditions_agree(changes: Sequence[Change]) -> Iterator[str]:
    """What kstatus reads says the same as the phase."""
    wanted = {
        "Succeeded": ("True", "False", "False"),
        "Failed": ("False", "False", "True"),
    }
    for change in changes:
        phase = change.status.get("phase")
        if change.kind != "FineTuneJob" or phase is None:
            continue
        truths = {c["type"]: c["status"] for c in change.status.get("conditions", [])}
        told = tuple(truths.get(type_) for type_ in ("Ready", "Reconciling", "Stalled"))
        if told[1:] == ("True", "True"):
            yield f"phase and conditions agree: {change.name} is Reconciling and Stalled"
        if (phase in OVER and told != wanted[phase]) or (phase not in OVER and told[0] == "True"):
            yield f"phase and conditions agree: {change.name} is {phase}, its conditions say {truths}"
        if (phase == "Suspended") != (truths.get("Suspended") == "True"):
            yield f"phase and conditions agree: {change.name} is {phase}, its conditions say {truths}"


def steps_do_not_fall(changes: Sequence[Change]) -> Iterator[str]:
    """Within an attempt, the step that is told does not fall, once it is the attempt's own."""
    inherited: dict[tuple[str, int | None], int | None] = {}
    for job, before, after in _turns(changes):
        (old, was), (new, now) = (_newest(status) for status in (before, after))
        left = inherited.setdefault((job, new), was)
        if old == new and was is not None and now is not None and now < was != left:
            yield f"steps do not fall: {job} went from step {was} to {now} in attempt {new}"


def no_secret_is_told(
    changes: Sequence[Change], others: dict[str, str], secrets: Sequence[str]
) -> Iterator[str]:
    """None of these texts is in any object, nor in other texts (by what they are)."""
    told = others | {f"{change.kind} {change.name}": json.dumps(change.wire) for change in changes}
    for where, text in told.items():
        for secret in secrets:
            if secret in text:
                yield f"no secret is told: {secret[:12]}… stands in {where}"


def writes_are_allowed(requests: Sequence[Request], namespace: str) -> Iterator[str]:
    """Nothing is written outside the namespace, nor of a FineTuneJob anything but its status."""
    for request in requests:
        asked = request.asked
        if not asked.is_write:
            continue
        if f"/namespaces/{namespace}/" not in f"{asked.path}/":
            yield f"writes are allowed: {asked.method} {asked.path} is outside of {namespace}"
        if asked.resource.startswith(names.PLURAL) and (
            asked.resource != f"{names.PLURAL}/status" or "spec" in json.loads(asked.body)
        ):
            yield f"writes are allowed: {asked.method} {asked.path} writes more than a status"
        if asked.method == "DELETE" and "uid" not in json.loads(asked.body or b"{}").get("preconditions", {}):
            yield f"writes are allowed: {asked.method} {asked.path} would delete whatever has that name"


def at_rest(changes: Sequence[Change]) -> list[str]:
    """What is wrong with how the jobs that are there stand, once nothing happens any more."""
    there: dict[str, Change] = {}
    for change in changes:
        if change.kind == "FineTuneJob":
            there[change.uid] = change
    found: list[str] = []
    for job in there.values():
        if job.type == "DELETED":
            continue
        generation, conditions = job.metadata["generation"], job.status.get("conditions", [])
        told = {"its status": job.status.get("observedGeneration")} | {
            f"its condition {condition['type']}": condition.get("observedGeneration")
            for condition in conditions
        }
        found += [
            f"at rest: {job.name} is at generation {generation}, {what} at {observed}"
            for what, observed in told.items()
            if observed != generation
        ]
    return found


def writes_stop(requests: Sequence[Request], since: float) -> list[str]:
    """What was written after this time, though nobody had anything to do any more."""
    return [
        f"at rest: {request.asked.method} {request.asked.path}, though nothing had happened"
        for request in requests
        if request.asked.is_write and request.asked.time > since
    ]


def _in_time(changes: Sequence[Change]) -> Iterator[Change]:
    """All but the pods of Jobs that were made for a FineTuneJob when it had gone.

    Between what an operator sees and what it makes, somebody may delete the FineTuneJob, and the garbage collector the
    gang that another operator had made. The API server makes a Job all the same, and the garbage collector removes it.
    """
    gone: set[str] = set()
    late: set[str] = set()
    for change in changes:
        owner = _controller(change)
        if change.kind == "FineTuneJob" and change.type == "DELETED":
            gone.add(change.uid)
        if change.kind == "Job" and change.type == "ADDED" and owner in gone:
            late.add(change.uid)
        if change.kind != "Pod" or owner not in late:
            yield change


def _follow(alive: dict[str, Change], change: Change) -> bool:
    """Keep the pods that can run, by uid; says whether this one can."""
    if change.kind != "Pod" or change.job is None:
        return False
    alive.pop(change.uid, None)
    if change.type == "DELETED" or change.status.get("phase") in OVER:
        return False
    alive[change.uid] = change
    return True


def _turns(changes: Sequence[Change]) -> Iterator[tuple[str, Wire, Wire]]:
    """Each status of each FineTuneJob with the one before."""
    known: dict[str, Wire] = {}
    for change in changes:
        if change.kind == "FineTuneJob" and change.type != "DELETED":
            yield change.name, known.get(change.uid, {}), change.status
            known[change.uid] = change.status


def _newest(status: Wire) -> tuple[int | None, int | None]:
    attempts = status.get("attempts") or [{}]
    return attempts[-1].get("number"), (status.get("progress") or {}).get("step")


def _controller(change: Change) -> str | None:
    return str(change.controller["uid"]) if change.controller else None
