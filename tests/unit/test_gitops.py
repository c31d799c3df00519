"""The check of FineTuneJobs in Git repositories: the hook, the example, and the page about them."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import names
from terminal import VALID, finetune

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gitops"
WORKFLOW = EXAMPLE / ".github" / "workflows" / "finetune.yaml"
MATCHER = EXAMPLE / ".github" / "finetune.json"
GITLAB = EXAMPLE / ".gitlab-ci.yml"
HOOKS = EXAMPLE / ".pre-commit-config.yaml"
ARGO_CD = EXAMPLE / "argocd-cm.yaml"
APPLICATION = EXAMPLE / "argocd" / "application.yaml"
FLUX = EXAMPLE / "flux" / "jobs.yaml"
FLUX_ACCOUNT = EXAMPLE / "flux" / "service-account.yaml"
SHOWN = (WORKFLOW, MATCHER, GITLAB, HOOKS, ARGO_CD, APPLICATION, FLUX, FLUX_ACCOUNT)
CHART_FILES = ROOT / "charts" / "finetune-operator" / "files"


def hook() -> dict[str, Any]:
    [found] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return dict(found)


def commands() -> list[list[str]]:
    """What the examples call, as arguments of `finetune`."""
    github = [step["run"] for step in yaml.safe_load(WORKFLOW.read_text())["jobs"]["validate"]["steps"][2:]]
    gitlab = yaml.safe_load(GITLAB.read_text())["finetunejobs"]["script"]
    words = [shlex.split(command) for command in [*github, *gitlab]]
    return [
        line[1:] if line[0] == "finetune" else line[line.index("--entrypoint") + 3 :]
        for line in words
        if "finetune" in line
    ]


@pytest.mark.parametrize(
    ("check", "file"),
    [("validate-manifest", ROOT / ".pre-commit-hooks.yaml"), ("validate-config", HOOKS)],
)
def test_pre_commit_takes_the_hook_and_the_example_of_its_use(check: str, file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", check, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_example_uses_the_hook() -> None:
    [repository] = yaml.safe_load(HOOKS.read_text())["repos"]
    assert [used["id"] for used in repository["hooks"]] == [hook()["id"]]


def test_the_hook_lets_valid_jobs_and_other_files_pass_and_stops_invalid_ones(tmp_path: Path) -> None:
    command, *arguments = shlex.split(hook()["entry"])
    assert command == "finetune"
    job, other = tmp_path / "job.yaml", tmp_path / "chart.yaml"
    other.write_text("{{ template }}")
    job.write_text(VALID)
    assert finetune(*arguments, job, other).exit_code == 0
    assert finetune(*arguments, other).exit_code == 0
    job.write_text(VALID.replace("sft", "sfr"))
    assert finetune(*arguments, job, other).exit_code == 1


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_what_the_pipelines_call_accepts_the_examples_jobs(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLE)
    result = finetune(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "finetunejob/support" in result.stdout


def test_both_pipelines_validate_and_plan() -> None:
    assert commands() == [["validate", "jobs"], ["plan", "jobs"]] * 2


def test_github_reads_every_part_of_a_message(tmp_path: Path) -> None:
    [matcher] = json.loads(MATCHER.read_text())["problemMatcher"]
    [pattern] = matcher["pattern"]
    file = tmp_path / "job.yaml"
    file.write_text(VALID.replace("5e-6", "1e-3") + "---\n" + VALID.replace("sft", "sfr"))
    lines = finetune("validate", file).stderr.splitlines()
    found = [re.fullmatch(pattern["regexp"], line) for line in lines]
    parts = [
        [match[pattern[part]] for part in ("file", "line", "severity")]
        for match in found
        if match is not None
    ]
    assert parts == [[str(file), "22", "error"], [str(file), "12", "warning"]]
    assert all(match is not None and match[pattern["message"]].startswith("spec.") for match in found)


@pytest.mark.parametrize("file", SHOWN, ids=lambda file: file.name)
def test_the_page_shows_the_files_as_they_are(file: Path) -> None:
    assert f"\n{file.read_text()}```\n" in (ROOT / "docs" / "gitops.md").read_text()


def test_argo_cd_is_told_what_the_chart_has_to_say() -> None:
    told = yaml.safe_load(ARGO_CD.read_text())["data"]
    customizations, kind = "resource.customizations", f"{names.GROUP}_{names.KIND}"
    assert told == {
        f"{customizations}.health.{kind}": (CHART_FILES / "argocd-health.lua").read_text(),
        f"{customizations}.actions.{kind}": (CHART_FILES / "argocd-actions.yaml").read_text(),
        f"{customizations}.ignoreResourceUpdates.{kind}": "jsonPointers:\n  - /status\n",
    }


def test_both_tools_apply_the_directory_that_the_pull_request_is_checked_for() -> None:
    application = yaml.safe_load(APPLICATION.read_text())["spec"]
    _, jobs, _ = yaml.safe_load_all(FLUX.read_text())
    checked = {command[-1] for command in commands()}
    assert {application["source"]["path"], jobs["spec"]["path"].removeprefix("./")} == checked


def test_neither_tool_may_delete_a_job_to_change_it() -> None:
    application = yaml.safe_load(APPLICATION.read_text())["spec"]
    assert application["syncPolicy"]["syncOptions"] == ["ServerSideApply=true"]
    kustomizations = [
        found for found in yaml.safe_load_all(FLUX.read_text()) if found["kind"] == "Kustomization"
    ]
    assert not any(found["spec"].get("force", False) for found in kustomizations)


def test_flux_waits_for_the_jobs_before_what_needs_them() -> None:
    _, jobs, serving = yaml.safe_load_all(FLUX.read_text())
    assert jobs["spec"]["wait"]
    assert [named["name"] for named in serving["spec"]["dependsOn"]] == [jobs["metadata"]["name"]]
    account = next(yaml.safe_load_all(FLUX_ACCOUNT.read_text()))
    assert jobs["spec"]["serviceAccountName"] == account["metadata"]["name"]
