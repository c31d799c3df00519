"""`finetune render`: the objects that the operator would create."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from finetune_operator.cli.main import cli
from world import INLINE, MERGES, PUBLISH, manifest

GANG = ["ConfigMap", "Service", "NetworkPolicy", "Job"]
ALONE = ["ConfigMap", "NetworkPolicy", "Job"]
KINDS = [*ALONE, *GANG]


def render(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["render", *map(str, arguments)], input=stdin)


def written(directory: Path, name: str, **spec: Any) -> Path:
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest(name, **spec)))
    return file


def test_the_objects_of_preparation_and_attempt_1_are_printed_as_yaml(tmp_path: Path) -> None:
    result = render(written(tmp_path, "demo"))
    assert result.exit_code == 0, result.output
    objects = list(yaml.safe_load_all(result.stdout))
    assert [found["kind"] for found in objects] == KINDS
    assert [found["metadata"]["name"] for found in objects if found["kind"] == "Job"] == [
        "demo-prepare",
        "demo-1",
    ]
    assert "&id" not in result.stdout


def test_a_claim_that_an_administrator_fills_in_is_told_from_others(tmp_path: Path) -> None:
    result = render(written(tmp_path, "demo", storage={}))
    assert result.exit_code == 0, result.output
    jobs = [found for found in yaml.safe_load_all(result.stdout) if found["kind"] == "Job"]
    for found in jobs:
        volumes = {one["name"]: one for one in found["spec"]["template"]["spec"]["volumes"]}
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == "default-claim"
    assert len(jobs) == 2
    assert "default-claim where the" in result.stdout


def test_json_is_one_list_that_kubectl_takes(tmp_path: Path) -> None:
    result = render("-o", "json", written(tmp_path, "one"), written(tmp_path, "two"))
    found = json.loads(result.stdout)
    assert (found["apiVersion"], found["kind"]) == ("v1", "List")
    assert [item["kind"] for item in found["items"]] == KINDS * 2
    assert [item["metadata"]["name"] for item in found["items"][6::7]] == ["one-1", "two-1"]


def test_where_the_gang_prepares_there_is_nothing_but_the_gang(tmp_path: Path) -> None:
    result = render("-o", "json", written(tmp_path, "demo", dataset=INLINE))
    assert [item["kind"] for item in json.loads(result.stdout)["items"]] == GANG


def test_where_the_adapter_is_merged_that_job_comes_last(tmp_path: Path) -> None:
    result = render("-o", "json", written(tmp_path, "demo", dataset=INLINE, **MERGES))
    items = json.loads(result.stdout)["items"]
    assert [item["kind"] for item in items] == [*GANG, *ALONE[1:]]
    assert items[-1]["metadata"]["name"] == "demo-merge"


def test_where_the_result_is_uploaded_that_comes_last_with_a_configuration_of_its_own(tmp_path: Path) -> None:
    result = render("-o", "json", written(tmp_path, "demo", dataset=INLINE, **MERGES, **PUBLISH))
    items = json.loads(result.stdout)["items"]
    assert [item["kind"] for item in items] == [*GANG, *ALONE[1:], *ALONE]
    assert items[-1]["metadata"]["name"] == "demo-publish"


def test_nothing_is_rendered_while_one_job_is_invalid(tmp_path: Path) -> None:
    wrong = written(tmp_path, "wrong", method="sfr")
    result = render(written(tmp_path, "good"), wrong)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"{wrong}:")
    assert "error: spec.method: must be 'sft', 'osft' or 'lora' (found 'sfr')" in result.stderr


def test_a_file_without_a_job_is_an_error() -> None:
    result = render("-", stdin="kind: Service\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no FineTuneJob in <stdin>" in result.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a job that has left a result."""
    output = tmp_path / "runs" / "demo" / "output"
    output.mkdir(parents=True)
    (output / "finetunejob.yaml").write_text("# How\nkind: FineTuneJob\nspec: {seed: 1e1}\n")
    return output.parent


@pytest.mark.parametrize("below", [".", "output"])
def test_the_manifest_beside_a_result_is_printed_as_it_is(run: Path, below: str) -> None:
    result = render("--from-run", run / below)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (run / "output" / "finetunejob.yaml").read_text()
    as_json = json.loads(render("--from-run", run / below, "-o", "json").stdout)
    assert as_json == {"kind": "FineTuneJob", "spec": {"seed": 10.0}}


def test_a_run_without_a_result_has_no_manifest(run: Path) -> None:
    shutil.rmtree(run / "output")
    result = render("--from-run", run)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no finetunejob.yaml in {run}, nor in output below it" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        ([], 2, "name FILE, or --from-run"),
        (["--from-run", "demo", "-"], 2, "--from-run takes the place of FILE"),
        (["-n", "team-a", "-"], 2, "-n goes with --from-run NAME"),
        (["--from-run", "runs/gone"], 1, "there is no directory runs/gone"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], exit_code: int, said: str) -> None:
    result = render(*arguments, stdin="kind: Service\n")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert said in result.stderr
