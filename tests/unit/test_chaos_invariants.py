"""Every invariant of the chaos tests finds the history that violates it, and nothing in one that is sound."""

import copy
import itertools
import json
from typing import Any

import pytest

from chaos import invariants
from chaos.changes import Change, in_order
from chaos.faults import Asked
from chaos.proxy import Request

COUNT = itertools.count(1)
SOUND = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "seccompProfile": {"type": "RuntimeDefault"},
    "capabilities": {"drop": ["ALL"]},
}


def told(kind: str, name: str, uid: str, type_: str = "MODIFIED", **wire: Any) -> Change:
    metadata = {"name": name, "uid": uid, "resourceVersion": str(next(COUNT))}
    return Change(type_, kind, {**wire, "metadata": metadata | wire.get("metadata", {})})


def job(phase: str = "Running", step: int | None = None, **status: Any) -> Change:
    truths = {"Succeeded": ("True", "False", "False"), "Failed": ("False", "False", "True")}
    ready = truths.get(phase, ("Unknown", "True", "False"))
    types = ("Ready", "Reconciling", "Stalled")
    conditions = [
        {"type": t, "status": s, "observedGeneration": 1} for t, s in zip(types, ready, strict=True)
    ]
    known = {"phase": phase, "startTime": "t", "conditions": conditions, "observedGeneration": 1}
    progress = {} if step is None else {"progress": {"step": step}}
    return told("FineTuneJob", "demo", "j", metadata={"generation": 1}, status=known | progress | status)


def owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    labels = {"finetune.dev/job": "demo"}
    reference = {"kind": kind, "name": name, "uid": uid, "controller": True}
    return {"metadata": {"labels": labels, "ownerReferences": [reference]}}


def suspended() -> Change:
    types = (("Ready", "Unknown"), ("Reconciling", "False"), ("Stalled", "False"), ("Suspended", "True"))
    return job("Suspended", conditions=[{"type": t, "status": s} for t, s in types])


def gang(uid: str, type_: str = "MODIFIED") -> Change:
    return told("Job", f"demo-{uid}", uid, type_, **owner("FineTuneJob", "demo", "j"))


def deleted() -> Change:
    return told("FineTuneJob", "demo", "j", "DELETED", metadata={"generation": 1})


def pod(
    uid: str,
    of: str,
    phase: str = "Pending",
    type_: str = "MODIFIED",
    spec: dict[str, Any] | None = None,
    **context: Any,
) -> Change:
    whole = {"containers": [{"name": "trainer", "securityContext": SOUND | context}], **(spec or {})}
    made = owner("Job", f"demo-{of}", of)
    return told("Pod", uid, uid, type_, **made, spec=whole, status={"phase": phase})


def attempt(number: int, **fields: Any) -> dict[str, Any]:
    return {"number": number, "startTime": "t"} | fields


ENDED = attempt(1, endTime="t", reason="Error")
LIFE = [
    job("Pending", attempts=[attempt(1)]),
    gang("g1"),
    pod("p1", "g1"),
    job(step=1, attempts=[attempt(1)]),
    job(step=3, attempts=[attempt(1)]),
    pod("p1", "g1", "Failed"),
    job("Restarting", step=3, attempts=[ENDED]),
    job("Pending", step=3, attempts=[ENDED, attempt(2)]),
    gang("g2"),
    pod("p2", "g2"),
    job(step=2, attempts=[ENDED, attempt(2)]),
    pod("p2", "g2", "Succeeded"),
    job("Succeeded", step=3, attempts=[ENDED, attempt(2, endTime="t")]),
]


def asked(method: str, path: str, body: Any = None) -> Request:
    return Request(Asked(method, path, {}, json.dumps(body).encode() if body is not None else b""), None)


STATUS = "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs/demo/status"
JOBS = "/apis/batch/v1/namespaces/team/jobs"
PRECISE = {"preconditions": {"uid": "g1"}}


def test_a_sound_life_has_no_violation() -> None:
    written = [asked("PATCH", STATUS, {"status": {}}), asked("DELETE", f"{JOBS}/demo-1", PRECISE)]
    assert not invariants.violations(in_order(reversed(LIFE)), written, "team")
    assert not invariants.at_rest(LIFE)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("one gang at a time", [gang("g1"), gang("g2"), pod("p1", "g1"), pod("p2", "g2")]),
        (
            "one gang at a time",
            [gang("g1", "ADDED"), pod("p1", "g1"), gang("g2", "ADDED"), deleted(), pod("p2", "g2")],
        ),
        ("restricted", [gang("g1"), pod("p1", "g1", runAsNonRoot=False)]),
        ("restricted", [gang("g1"), pod("p1", "g1", capabilities={})]),
        ("restricted", [gang("g1"), pod("p1", "g1", spec={"hostNetwork": True})]),
        ("restricted", [gang("g1"), pod("p1", "g1", spec={"volumes": [{"name": "v", "hostPath": {}}]})]),
        ("owned", [pod("p1", "unknown")]),
        ("owned", [told("ConfigMap", "c", "c", **owner("FineTuneJob", "demo", "another"))]),
        ("owned", [told("ConfigMap", "c", "c", metadata={"labels": {"finetune.dev/job": "demo"}})]),
        ("attempts stand", [job(attempts=[attempt(2), attempt(1)])]),
        ("attempts stand", [job(attempts=[attempt(1)]), job(attempts=[])]),
        ("attempts stand", [job(attempts=[attempt(1)]), job(attempts=[attempt(1) | {"startTime": "later"}])]),
        ("attempts stand", [job(attempts=[ENDED]), job(attempts=[ENDED | {"reason": "Hung"}])]),
        ("attempts stand", [job(attempts=[attempt(1), attempt(2)])]),
        ("terminal is final", [job("Succeeded"), job("Pending")]),
        ("terminal is final", [job("Failed"), job("Succeeded")]),
        ("terminal is final", [job("Failed", completionTime="t"), job("Failed", completionTime="later")]),
        ("terminal is final", [job("Failed"), gang("g2", "ADDED")]),
        ("suspended holds nothing", [gang("g1"), pod("p1", "g1"), suspended()]),
        ("suspended holds nothing", [suspended(), gang("g1"), pod("p1", "g1")]),
        ("phase and conditions agree", [job("Succeeded", conditions=[])]),
        ("phase and conditions agree", [job("Suspended")]),
        ("steps do not fall", [job(step=3, attempts=[attempt(1)]), job(step=2, attempts=[attempt(1)])]),
    ],
)
def test_a_violation_is_found(name: str, more: list[Change]) -> None:
    life = [job("Pending"), *copy.deepcopy(more)]
    found = invariants.violations(life, [], "team")
    assert {one.split(":")[0] for one in found} == {name}, found


def test_what_is_made_for_a_job_that_is_gone_is_no_gang_of_it() -> None:
    late = [gang("g2", "ADDED"), pod("p2", "g2"), pod("p1", "g1", type_="DELETED")]
    life = [job("Pending"), gang("g1", "ADDED"), pod("p1", "g1"), deleted(), *late]
    assert invariants.violations(life, [], "team") == []


@pytest.mark.parametrize(
    "written",
    [
        asked("PATCH", STATUS, {"spec": {}, "status": {}}),
        asked("PATCH", STATUS.removesuffix("/status"), {"metadata": {}}),
        asked("PATCH", STATUS.replace("team", "other"), {"status": {}}),
        asked("DELETE", f"{JOBS}/demo-1"),
    ],
)
def test_a_write_that_is_not_allowed_is_found(written: Request) -> None:
    assert len(invariants.violations([], [written], "team")) == 1


def test_a_secret_is_found_wherever_it_is_told() -> None:
    event = told("Event", "e", "e", note="hf_marker")
    found = list(invariants.no_secret_is_told([*LIFE, event], {"the log": "…hf_marker…"}, ["hf_marker"]))
    assert len(found) == 2


def test_what_the_api_server_says_of_a_pod_is_found() -> None:
    request = asked("PATCH", f"{JOBS}/demo-1", {})
    request.warning = '299 - "would violate PodSecurity \\"restricted:latest\\""'
    assert len(invariants.violations([], [request], "team")) == 1


def test_a_write_at_rest_is_found() -> None:
    before, after = asked("PATCH", STATUS, {"status": {}}), asked("PATCH", STATUS, {"status": {}})
    looked = asked("GET", JOBS)
    assert len(invariants.writes_stop([before, after, looked], before.asked.time)) == 1


def test_an_outdated_status_is_found_at_rest() -> None:
    assert invariants.at_rest([job(observedGeneration=0)])
    outdated = {"type": "Ready", "status": "Unknown", "observedGeneration": 0}
    assert invariants.at_rest([job(conditions=[outdated])])
    assert not invariants.at_rest([job(conditions=[outdated]), job()])
