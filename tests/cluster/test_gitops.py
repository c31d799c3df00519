"""What Flux and Argo CD make of jobs, by their own code, in every state that jobs on a real API server have been in."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

from cluster.chart import notes
from cluster.judges import ACTIONS, HEALTH, argo_cd, flux
from cluster.kube import Kube, Wire
from cluster.lives import LIVES, Lives
from cluster.operators import Operator
from finetune_api.status import Phase

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gitops.md"
UNSEEN, BLOCKED, DELETED = "not seen yet", "held up", "being deleted"


@pytest.fixture(scope="module")
def lives(kube: Kube, operator: Operator) -> Iterator[Lives]:
    """Jobs that have been through everything, one after another."""
    with kube.namespace() as namespace:
        recorded = Lives(namespace, operator)
        for life in LIVES:
            recorded.record(life)
        yield recorded


def table() -> dict[str, tuple[str, str]]:
    """What the documentation says that Flux and Argo CD make of a job, by how it is."""
    rows = re.findall(r"^\| \*\*(.+)\*\*.* \| (\w+) \| (\w+) \|$", PAGE.read_text(), re.MULTILINE)
    return {kind: (by_flux, by_argo_cd) for kinds, by_flux, by_argo_cd in rows for kind in kinds.split(", ")}


def kind(job: Wire) -> str:
    """How a job is, in the words of that table."""
    status = job["status"]
    if "deletionTimestamp" in job["metadata"]:
        return DELETED
    if status["observedGeneration"] != job["metadata"]["generation"]:
        return UNSEEN
    phase = Phase(status["phase"])
    [stalled] = [one["status"] for one in status["conditions"] if one["type"] == "Stalled"]
    return BLOCKED if stalled == "True" and not phase.is_terminal else phase.value


def said(job: Wire) -> str:
    """A job in short, for who reads that a test failed."""
    told = [(one["type"], one["status"], one["reason"]) for one in job["status"].get("conditions", [])]
    return f"{job['metadata']['name']} {job['metadata']['generation']} {job['status'].get('phase')} {told}"


def test_jobs_have_been_in_every_state(lives: Lives) -> None:
    assert {kind(job) for job in lives.all} == set(table()) == {*Phase, UNSEEN, BLOCKED, DELETED}


def test_flux_makes_of_every_state_what_the_table_says(lives: Lives) -> None:
    jobs = list(lives.all)
    wrong = [
        (answer, said(job))
        for job, answer in zip(jobs, flux(jobs), strict=True)
        if answer != table()[kind(job)][0]
    ]
    assert wrong == []


def test_argo_cd_makes_of_every_state_what_the_table_says(lives: Lives) -> None:
    # What is being deleted it does not ask the script about.
    jobs = [job for job in lives.all if kind(job) != DELETED]
    wrong = [
        (answer, said(job))
        for job, answer in zip(jobs, argo_cd(jobs), strict=True)
        if answer["status"] != table()[kind(job)][1] or not answer.get("message")
    ]
    assert wrong == []


def test_nothing_is_done_before_it_has_succeeded_and_nothing_done_is_undone(lives: Lives) -> None:
    for name, versions in lives.versions.items():
        answers = flux(versions)
        for job, answer in zip(versions, answers, strict=True):
            assert (answer == "Current") == (kind(job) == "Succeeded"), said(job)
        succeeded = [
            number for number, job in enumerate(versions) if job["status"].get("phase") == "Succeeded"
        ]
        if succeeded:
            # A change of the spec has to be looked at, and is no more than that.
            assert set(answers[succeeded[0] :]) <= {"Current", "InProgress"}, name
            assert answers[-1] == "Current", name


def test_a_job_that_has_failed_stays_so_unless_its_spec_is_corrected(lives: Lives) -> None:
    for name in ("failed", "unprepared"):
        answers = flux(lives.versions[name])
        after = answers[answers.index("Failed") :]
        assert set(after) <= {"Failed", "InProgress"}
        assert after[-1] == "Failed"
    assert flux(lives.versions["corrected"])[-1] == "InProgress"


def test_argo_cd_shows_how_far_training_has_come_and_where_an_upload_stands(lives: Lives) -> None:
    messages = {answer["message"] for answer in argo_cd(list(lives.all))}
    assert "training: 1/36 (2%), loss 1.99, ETA 1h46m" in messages
    uploads = [told for told in messages if "; " in told and "models/demo" in told]
    assert uploads, messages
    assert any("in queue team" in told for told in messages)
    assert "nothing has begun, and everything may still be changed; spec.suspend: false begins" in messages


def test_the_chart_prints_the_script(kube: Kube) -> None:
    key = "  resource.customizations.health.finetune.dev_FineTuneJob: |"
    assert f"{key}\n{indent(HEALTH.read_text(), '    ')}" in notes(kube)


# Its menu


def test_argo_cd_s_actions_suspend_and_resume_what_is_not_over(lives: Lives, tmp_path: Path) -> None:
    actions = yaml.safe_load(ACTIONS.read_text())
    scripts = {one["name"]: one["action.lua"] for one in actions["definitions"]}
    discovery = tmp_path / "discovery.lua"
    discovery.write_text(actions["discovery.lua"])
    jobs = list(lives.all)
    for job, offered in zip(jobs, argo_cd(jobs, discovery), strict=True):
        assert set(offered) == set(scripts)
        possible = {name for name, action in offered.items() if not action["disabled"]}
        if kind(job) in ("Succeeded", "Failed"):
            assert possible == set()
        elif job["status"].get("phase") not in ("Succeeded", "Failed"):
            assert possible == {"resume" if job["spec"]["suspend"] else "suspend"}, said(job)
    for name, suspended in (("suspend", True), ("resume", False)):
        script = tmp_path / f"{name}.lua"
        script.write_text(scripts[name])
        for job, changed in zip(jobs, argo_cd(jobs, script), strict=True):
            wanted = job | {"spec": job["spec"] | {"suspend": suspended}}
            assert without_empty(changed) == without_empty(wanted)


def without_empty(value: Any) -> Any:
    """The same without what is empty: Lua knows no difference of maps and lists there, and Argo CD restores it."""
    if isinstance(value, dict):
        return {key: without_empty(part) for key, part in value.items() if part not in ({}, [], None)}
    if isinstance(value, list):
        return [without_empty(part) for part in value]
    return value
