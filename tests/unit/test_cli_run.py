"""`finetune run`: what it refuses before anything starts, and what makes two runs the same run."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from finetune_api.spec import FineTuneJob
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.local import folders, gpus, trainer
from finetune_operator.cli.local.identity import run_uid
from finetune_operator.cli.main import cli
from world import manifest


def job(**spec: Any) -> FineTuneJob:
    return FineTuneJob.model_validate(manifest(**spec))


def run(directory: Path, *mappings: str, **spec: Any) -> Result:
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(manifest(**spec)))
    options = [word for mapping in mappings for word in ("--claim", mapping)]
    return CliRunner().invoke(cli, ["run", str(file), *options])


def test_a_missing_claim_is_an_error_with_the_exact_options_to_add(tmp_path: Path) -> None:
    result = run(tmp_path, f"data={tmp_path}")
    assert result.exit_code == 1
    assert "models (the base model), data (the training data), runs (the results)" in result.stderr
    assert "Add: --claim models=DIR --claim runs=DIR\n" in result.stderr


@pytest.mark.parametrize(
    ("mapping", "complaint"),
    [
        ("data", "write --claim NAME=DIR"),
        ("data=", "write --claim NAME=DIR"),
        ("date=.", "the job names no claim date"),
        ("data=no-such-folder", "no-such-folder: there is no such folder"),
    ],
)
def test_a_useless_mapping_is_refused(tmp_path: Path, mapping: str, complaint: str) -> None:
    mappings = [mapping, f"models={tmp_path}", f"runs={tmp_path}"]
    if not mapping.startswith("data="):
        mappings.append(f"data={tmp_path}")
    result = run(tmp_path, *mappings)
    assert result.exit_code == 1
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        ("{}/job.yaml", "--claim runs={}/job.yaml: the folder cannot be made: File exists"),
        ("{}/job.yaml/a", "--claim runs={}/job.yaml/a: the folder cannot be made: Not a directory"),
        ("~nobody-of-this-name/x", "--claim runs=~nobody-of-this-name/x: there is no such home directory"),
    ],
)
def test_a_folder_for_the_results_that_cannot_be_made_is_refused(
    tmp_path: Path, folder: str, complaint: str
) -> None:
    result = run(tmp_path, f"data={tmp_path}", f"models={tmp_path}", f"runs={folder.format(tmp_path)}")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {complaint.format(tmp_path)}\n"


def test_a_folder_that_may_not_be_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    # Root may look at everything.
    monkeypatch.setattr(os, "stat", stat)
    result = run(tmp_path, f"data={tmp_path}/secret", f"models={tmp_path}", f"runs={tmp_path}")
    assert result.exit_code == 1
    assert f"--claim data={tmp_path}/secret: there is no such folder" in result.stderr


def test_a_directory_that_cannot_be_locked_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "find", lambda: "trainer")
    claims = [f"{claim}={tmp_path}" for claim in ("models", "data", "runs")]
    place = tmp_path / "demo"
    place.touch()
    result = run(tmp_path, *claims)
    assert result.exit_code == 1
    assert f"Error: {place}: the folder of the results cannot be made" in result.stderr
    assert result.stderr.endswith(": File exists; name another folder with --claim\n")

    def without_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    place.unlink()
    monkeypatch.setattr(fcntl, "flock", without_locks)
    result = run(tmp_path, *claims)
    assert result.exit_code == 1
    assert f"Error: {place}: other runs cannot be kept out" in result.stderr
    assert result.stderr.endswith(": No locks available; name another folder with --claim\n")


def test_a_claim_that_is_mapped_twice_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, f"data={tmp_path}", "data=elsewhere")
    assert "--claim data is there twice" in result.stderr


def test_a_job_that_is_to_be_suspended_does_not_run(tmp_path: Path) -> None:
    result = run(tmp_path, f"data={tmp_path}", f"models={tmp_path}", f"runs={tmp_path}", suspend=True)
    assert result.exit_code == 1
    assert "spec.suspend is true, so nothing may run: set it to false, or remove it" in result.stderr


def test_a_job_whose_claim_an_administrator_fills_in_does_not_run(tmp_path: Path) -> None:
    result = run(tmp_path, f"data={tmp_path}", f"models={tmp_path}", storage={"path": "here"})
    assert result.exit_code == 1
    assert "spec.storage.claimName: is required here" in result.stderr


def test_paths_lie_in_the_folders_of_their_claims(tmp_path: Path) -> None:
    shared = job(storage={"claimName": "data", "path": "results/demo"})
    mappings = [f"models={tmp_path}", f"data={tmp_path / 'made'}"]
    where = folders.locations(shared, folders.folders(shared, {folders.CLAIM: mappings}))
    assert where.model == f"{tmp_path}/tiny"
    assert where.data == {"train": [f"{tmp_path}/made/train.jsonl"]}
    assert where.storage == f"{tmp_path}/made/results/demo"
    assert (tmp_path / "made").is_dir()


ELSEWHERE: dict[str, Any] = {
    "model": {"image": {"reference": "registry.example/model@sha256:0", "path": "a"}},
    "dataset": {
        "train": {"configMap": {"name": "rows", "key": "few.jsonl"}},
        "validation": {
            "huggingFace": {"repo": "o/r", "path": "a.csv", "tokenSecretRef": {"name": "h", "key": "k"}}
        },
    },
}


def test_folders_stand_in_for_config_maps_and_images_and_downloads_lie_with_the_results(
    tmp_path: Path,
) -> None:
    elsewhere = job(**ELSEWHERE)
    where = folders.locations(
        elsewhere,
        folders.folders(
            elsewhere,
            {
                folders.CLAIM: [f"runs={tmp_path}"],
                folders.CONFIG_MAP: [f"rows={tmp_path}"],
                folders.IMAGE: [f"registry.example/model@sha256:0={tmp_path}"],
            },
        ),
    )
    assert where.model == f"{tmp_path}/a"
    downloads = f"{tmp_path}/.downloads"
    assert where.data == {"train": [f"{tmp_path}/few.jsonl"], "validation": [downloads]}
    assert where.downloads == downloads


def test_a_missing_config_map_or_image_is_an_error_with_the_options_to_add(tmp_path: Path) -> None:
    result = run(tmp_path, f"runs={tmp_path}", **ELSEWHERE)
    assert result.exit_code == 1
    assert (
        "On this machine folders stand in for claims, ConfigMaps and images. The job names image "
        "registry.example/model@sha256:0 (the base model), ConfigMap rows (the training data), runs (the results)."
        "\nAdd: --image registry.example/model@sha256:0=DIR --config-map rows=DIR\n"
    ) in result.stderr
    assert "spec names Secrets of who may download" in result.stderr


def test_the_same_job_is_the_same_run_wherever_and_however_it_runs() -> None:
    uid = run_uid(job())
    assert uid == run_uid(job(resources={"nodes": 4, "gpusPerNode": 0}))
    assert uid == run_uid(job(failurePolicy={"maxRestarts": 0}))
    assert uid == run_uid(job(storage={"claimName": "elsewhere"}))


@pytest.mark.parametrize(
    "spec",
    [
        {"hyperparameters": {"learningRate": 1e-3}},
        {"model": {"volume": {"claimName": "models", "path": "other"}}},
        {"dataset": {"train": {"volume": {"claimName": "data", "path": "other.jsonl"}}}},
        {"evaluation": {"everySteps": 5}},
    ],
)
def test_another_result_is_another_run(spec: dict[str, Any]) -> None:
    assert run_uid(job(**spec)) != run_uid(job())


def test_another_name_or_namespace_is_another_run() -> None:
    base = manifest()
    for metadata in ({"name": "other"}, {"name": "demo", "namespace": "other"}):
        assert run_uid(FineTuneJob.model_validate(base | {"metadata": metadata})) != run_uid(job())


def test_too_few_gpus_are_an_error_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "0,1,2")
    folders = [f"{claim}={tmp_path}" for claim in ("models", "data", "runs")]
    result = run(tmp_path, *folders, resources={"nodes": 2, "gpusPerNode": 2})
    assert result.exit_code == 1
    assert "needs 4 GPUs" in result.stderr
    assert "has 3" in result.stderr
    assert "gpusPerNode: 0" in result.stderr
    assert os.listdir(tmp_path) == ["job.yaml"]


def test_every_node_gets_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e")
    assert gpus.assign(job(resources={"nodes": 2, "gpusPerNode": 2})) == [
        ["GPU-a", "GPU-b"],
        ["GPU-c", "GPU-d"],
    ]
    assert gpus.assign(job(resources={"nodes": 2, "gpusPerNode": 0})) == [[], []]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_none(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv(gpus.VISIBLE, visible)
    with pytest.raises(CommandError, match="has 0"):
        gpus.assign(job(resources={"nodes": 1, "gpusPerNode": 1}))


def test_it_runs_one_job_and_not_several(tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(yaml.safe_dump_all([manifest("one"), manifest("two")]))
    result = CliRunner().invoke(cli, ["run", str(file)])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {file}: one FineTuneJob is needed here; found: one, two\n"
