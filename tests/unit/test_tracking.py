"""`spec.tracking`: what of a Secret gets into a training pod, and what never does."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from finetune_api.spec import FIXED, FineTuneJob
from finetune_operator.cli.local.gang import Gang
from finetune_operator.cli.main import cli
from finetune_operator.objects.tracking import environment
from finetune_operator.objects.workload import attempt, preparation
from world import INSTALLATION, manifest

MLFLOW = {"mlflow": {"secretRef": {"name": "team-mlflow"}}}
WANDB = {"wandb": {"secretRef": {"name": "team-wandb"}}}


def entries(tracking: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The Secret's part of each variable."""
    spec = FineTuneJob.model_validate(manifest(tracking=tracking)).spec
    found = environment(spec)
    assert all(entry.keys() == {"name", "valueFrom"} for entry in found)
    return {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in found}


def test_a_job_that_names_no_service_reads_no_secret() -> None:
    assert entries({}) == {}


@pytest.mark.parametrize(
    ("tracking", "secret", "needed"),
    [(MLFLOW, "team-mlflow", "MLFLOW_TRACKING_URI"), (WANDB, "team-wandb", "WANDB_API_KEY")],
)
def test_a_secret_must_have_what_nothing_works_without(
    tracking: dict[str, Any], secret: str, needed: str
) -> None:
    found = entries(tracking)
    assert {reference["name"] for reference in found.values()} == {secret}
    assert [variable for variable, reference in found.items() if not reference["optional"]] == [needed]


def test_a_secret_sets_only_the_variables_of_its_service() -> None:
    found = entries(MLFLOW | WANDB)
    assert all(variable == reference["key"] for variable, reference in found.items())
    assert all(variable.startswith(("MLFLOW_", "WANDB_")) for variable in found)


def test_the_pods_that_train_get_them_and_the_one_that_prepares_does_not() -> None:
    wire = manifest(tracking=MLFLOW | WANDB)
    wire["metadata"] |= {"uid": "uid-1"}
    job = FineTuneJob.model_validate(wire)
    wanted = {entry["name"] for entry in environment(job.spec)}
    for objects, expected in (
        (attempt(job, 1, INSTALLATION, prepared={}), wanted),
        (preparation(job, INSTALLATION), set()),
    ):
        [container] = objects[-1]["spec"]["template"]["spec"]["containers"]
        assert {entry["name"] for entry in container["env"]} & wanted == expected


def test_it_may_change_at_any_time() -> None:
    assert "tracking" not in FIXED


@pytest.mark.parametrize(
    "tracking",
    [
        {"mlflow": {}},
        {"mlflow": {"secretRef": {"name": "Team"}}},
        {"mlflow": {"secretRef": {"name": "team", "namespace": "other"}}},
        {"mlflow": {"uri": "https://mlflow.example"}},
    ],
)
def test_what_is_no_reference_to_a_secret_is_refused(tracking: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"spec\.tracking\.mlflow"):
        FineTuneJob.model_validate(manifest(tracking=tracking))


@pytest.mark.parametrize(("tracking", "told"), [(MLFLOW, True), ({}, False)])
def test_a_local_run_says_that_it_has_no_secrets(
    tmp_path: Path, tracking: dict[str, Any], told: bool
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(manifest(tracking=tracking)))
    result = CliRunner().invoke(cli, ["run", str(file)])
    assert ("if this shell has MLFLOW_TRACKING_URI or WANDB_API_KEY" in result.stderr) is told


def test_a_local_run_passes_the_shell_s_variables_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    spec = FineTuneJob.model_validate(manifest(tracking=MLFLOW)).spec
    container = {"env": [{"name": "PET_NNODES", "value": "1"}, *environment(spec)]}
    job = {"metadata": {"name": "demo-1"}, "spec": {"template": {"spec": {"containers": [container]}}}}
    [node] = Gang(job, ["env"], tmp_path, [[]], inherited=0).nodes
    assert node.process.wait(30) == 0
    printed = node.console.read_text().splitlines()
    assert {"PET_NNODES=1", "MLFLOW_TRACKING_URI=http://mine"} <= set(printed)
    assert not any(line.startswith("MLFLOW_TRACKING_TOKEN") for line in printed)
