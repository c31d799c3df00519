"""How training ends when it cannot go on: the exit code, the sentence, and what is left alone."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failure import ExitCode
from finetune_api.report import Stage
from tiny import conversation, poison, save_chat_data, save_tiny_model
from trainer.gangs import End, config, needs_mount, run, running, small_volume

HYPERPARAMETERS: dict[str, Any] = {"learningRate": 1e-3, "effectiveBatchSize": 2, "maxSeqLen": 128}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ends")
    save_tiny_model(made / "model")
    save_chat_data(made / "train.jsonl", samples=200)
    return made


def test_a_wrong_data_path_is_named_before_anything_heavy_is_imported(base: Path) -> None:
    [end] = run(config(base, name="typo", data="no-such/typo.jsonl", **HYPERPARAMETERS))
    assert end.exit_code == ExitCode.INVALID_CONFIGURATION
    assert end.reason.startswith('spec.dataset.train: "no-such/typo.jsonl" on claim "data"')
    assert end.reason.endswith("does not exist")
    assert str(base / "no-such/typo.jsonl") in end.reason
    assert not (base / "typo").exists()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "there are no *.safetensors"),
        ("tokenizer*", "no tokenizer"),
    ],
)
def test_an_incomplete_model_is_named(tmp_path: Path, missing: str, words: str) -> None:
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=1)
    for file in (tmp_path / "model").glob(missing):
        file.unlink()
    [end] = run(config(tmp_path, **HYPERPARAMETERS))
    assert end.exit_code == ExitCode.INVALID_CONFIGURATION
    assert end.reason.startswith("spec.model: ")
    assert words in end.reason
    assert '"tiny" on claim "models"' in end.reason


def test_weights_that_could_run_code_are_not_read(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=1)
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    [end] = run(config(tmp_path, **HYPERPARAMETERS))
    assert end.exit_code == ExitCode.UNTRUSTED_FILE
    assert end.reason.startswith('spec.model: "tiny" on claim "models"')
    assert "its weights in pytorch_model.bin only" in end.reason
    assert "save_pretrained(path, safe_serialization=True)" in end.reason
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_run_is_not_touched(base: Path) -> None:
    foreign = base / "foreign"
    foreign.mkdir()
    identity = json.dumps({"uid": "another", "namespace": "team-b", "name": "older"})
    (foreign / "run.json").write_text(identity)
    [end] = run(config(base, name="foreign", **HYPERPARAMETERS))
    assert end.exit_code == ExitCode.INVALID_CONFIGURATION
    assert 'spec.storage: the directory "foreign" on claim "runs"' in end.reason
    assert "team-b/older" in end.reason
    assert "another spec.storage.path, or remove the directory" in end.reason
    assert [file.name for file in foreign.iterdir()] == ["run.json"]
    assert (foreign / "run.json").read_text() == identity


def test_a_directory_with_a_model_of_unknown_origin_is_not_touched(base: Path) -> None:
    (base / "unknown" / "output").mkdir(parents=True)
    [end] = run(config(base, name="unknown", **HYPERPARAMETERS))
    assert end.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "holds output of an unknown run" in end.reason
    assert [file.name for file in (base / "unknown").iterdir()] == ["output"]


def test_a_configuration_that_does_not_parse_is_told_by_field(base: Path) -> None:
    [end] = run(config(base, name="faulty", **HYPERPARAMETERS).model_copy(update={"uid": ""}))
    assert end.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "run.json: uid: " in end.reason


@pytest.fixture(scope="module")
def faulty(base: Path) -> dict[str, End]:
    """Two runs that come to grief at different stages; side by side, to save time."""
    rows = [conversation("x", "y")] * 8 + [conversation("x", "~")] * 8
    (base / "poisoned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    poison(base / "model", base / "poisoned", token="~")
    (base / "invalid.jsonl").write_text("\n".join([json.dumps(rows[0]), "{"] + ['{"messages": 1}'] * 30))
    diverging = config(base, name="diverging", data="poisoned.jsonl", **HYPERPARAMETERS)
    locations = diverging.locations.model_copy(update={"model": str(base / "poisoned")})
    with (
        running(diverging.model_copy(update={"locations": locations})) as one,
        running(config(base, name="invalid", data="invalid.jsonl", **HYPERPARAMETERS)) as other,
    ):
        return {"diverging": one.wait()[0], "invalid": other.wait()[0]}


@needs_mount
def test_a_full_volume_is_told_as_such(base: Path) -> None:
    # Room for the model of the first epoch, not for the state.
    inside = small_volume(base / "full", "400k")
    with running(config(base, name="full", maxSteps=200, **HYPERPARAMETERS), inside=inside) as gang:
        [end] = gang.wait()
    assert end.exit_code == ExitCode.STORAGE_FULL, end.output
    assert end.reason.startswith(
        f'spec.storage: "full" on claim "runs" (here "{base}/full") is full (No space left'
    )
    assert end.reason.endswith("what was complete on it is still there. Free or enlarge the claim.")
    assert "No space left on device" in end.output
    assert end.report.failure is not None
    assert end.report.failure.log is not None
    assert "Error: " in end.report.failure.log.splitlines()[-1]


def test_a_loss_that_is_no_number_ends_at_once_naming_step_and_learning_rate(faulty: dict[str, End]) -> None:
    end = faulty["diverging"]
    assert end.exit_code == ExitCode.LOSS_NOT_FINITE, end.output
    assert re.match(
        r"the loss is nan and the gradient norm nan in step \d, at a learning rate of", end.reason
    )
    assert "nan" not in json.dumps(end.report.metrics and end.report.metrics.to_wire()).lower()


def test_invalid_rows_end_it_before_anything_is_trained(faulty: dict[str, End]) -> None:
    end = faulty["invalid"]
    assert end.exit_code == ExitCode.INVALID_DATA, end.output
    assert end.report.stage is Stage.FAILED
    assert '"invalid.jsonl" on claim "data"' in end.reason
    assert "31 rows of 32 cannot be trained on: line 2: is not JSON" in end.reason
    assert end.reason.endswith("; and 28 more")
    assert end.report.failure is not None
    assert end.report.failure.details[30].startswith("line 32: messages: must be a list")
    # The log has every row that the message had to leave out.
    assert "line 21: messages: must be a list" in end.output
