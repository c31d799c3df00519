"""`finetune validate`: what it prints and what it exits with."""

import json
from pathlib import Path

import pytest
import yaml

from terminal import SERVICE, VALID, finetune, problems


def test_a_valid_job_exits_0() -> None:
    result = finetune("validate", "-", stdin=VALID)
    assert (result.exit_code, result.output) == (0, "finetunejob/demo is valid\n")


def test_every_fault_is_named_with_its_line() -> None:
    text = VALID.replace("5e-6", "-1").replace("numEpochs: 2", 'numEpochs: "2"').replace("runs", "Runs")
    first, second, third = problems(text)
    assert first == "12: error: spec.hyperparameters.learningRate: must be greater than 0 (found -1)"
    assert second == "13: error: spec.hyperparameters.numEpochs: must be a valid integer (found '2')"
    assert third.startswith("14: error: spec.storage.claimName: ")


def test_a_missing_field_is_named_with_the_line_of_the_object_that_lacks_it() -> None:
    [problem] = problems(VALID.replace(", path: train.jsonl", ""))
    assert problem == "10: error: spec.dataset.train.volume.path: is required"


@pytest.mark.parametrize(
    ("field", "suggestion"),
    [
        ("learningrate", "did you mean learningRate?"),
        # Python's name for the field, which the API server does not know.
        ("learning_rate", "did you mean learningRate?"),
        ("shuffle", "there are learningRate, effectiveBatchSize, "),
    ],
)
def test_an_unknown_field_is_an_error(field: str, suggestion: str) -> None:
    [problem] = problems(VALID.replace("learningRate", field))
    assert problem.startswith(
        f"12: error: spec.hyperparameters.{field}: there is no such field; {suggestion}"
    )


def test_an_unknown_field_beside_the_spec_is_an_error() -> None:
    [problem] = problems(VALID + "specs: {}\n")
    assert problem.startswith("15: error: specs: there is no such field")


def test_a_rule_across_fields_says_what_to_do() -> None:
    [problem] = problems(VALID.replace("numEpochs: 2", "maxSeqLen: 100\n    maxTokensPerGpu: 50"))
    assert problem.startswith("11: error: spec.hyperparameters: maxTokensPerGpu must be at least maxSeqLen")


def test_a_field_that_is_there_twice_is_an_error() -> None:
    [problem] = problems(VALID.replace("numEpochs: 2", "numEpochs: 2\n    numEpochs: 3"))
    assert problem == "14: error: spec.hyperparameters.numEpochs: is there twice; remove one"


def test_an_alias_of_what_it_is_part_of_is_an_error_like_others() -> None:
    [problem] = problems(VALID.replace("spec:\n", "spec: &spec\n  more: *spec\n"))
    assert problem.startswith("7: error: spec.more: there is no such field")


@pytest.mark.parametrize(
    "line", ["kind: FinetuneJob", "apiVersion: finetune.dev/v1", "apiVersion: example.com/v1alpha1"]
)
def test_a_misspelt_kind_or_version_is_not_taken_for_another_kind(line: str) -> None:
    field = line.split(":")[0]
    text = "\n".join(line if old.startswith(f"{field}:") else old for old in VALID.splitlines())
    [problem] = problems(text)
    assert f"{field}: must be " in problem


def test_broken_yaml_is_reported_where_it_breaks() -> None:
    [problem] = problems(VALID + "---\na: [\n")
    assert problem.startswith("17: error: is not valid YAML: ")


def test_all_documents_of_all_files_are_read_and_other_kinds_are_skipped_with_a_note(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"{SERVICE}---\n{VALID}---\n{VALID.replace('demo', 'second')}")
    two.write_text(VALID.replace("demo", "Third"))
    result = finetune("validate", one, two)
    assert result.exit_code == 1
    note, problem = result.stderr.splitlines()
    assert note == f"{one}:1: skipped: Service is not a FineTuneJob"
    assert problem.startswith(f"{two}:4: error: metadata.name: ")


def test_a_file_without_a_job_is_not_valid() -> None:
    result = finetune("validate", "-", stdin=SERVICE)
    assert result.exit_code == 1
    assert "there is no FineTuneJob in <stdin>" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["no-such-file.yaml"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert finetune("validate", *arguments).exit_code == 2


def test_the_guides_warnings_stand_at_the_line_of_their_field() -> None:
    result = finetune("validate", "-", stdin=VALID.replace("5e-6", "1e-3"))
    assert (result.exit_code, result.stdout) == (0, "finetunejob/demo is valid\n")
    [warning] = result.stderr.splitlines()
    assert warning.startswith("<stdin>:12: warning: spec.hyperparameters.learningRate: ")
    assert warning.endswith(" [learning-rate-high]")


def test_what_is_not_in_the_file_is_told_at_the_nearest_line() -> None:
    absent = VALID.replace("learningRate: 5e-6", "maxSeqLen: 64")
    findings = finetune("plan", "-", "-o", "json", stdin=absent.replace("base", "llama-8b")).stdout
    lines = {found["field"]: found["line"] for found in json.loads(findings)["findings"]}
    assert lines["spec.evaluation"] == 6


def test_notes_are_for_plan_only() -> None:
    assert "note:" not in finetune("validate", "-", stdin=VALID).output
    assert '"severity": "note"' not in finetune("validate", "-", "-o", "json", stdin=VALID).output


def test_machine_output_has_a_verdict_on_every_job_and_all_findings(tmp_path: Path) -> None:
    good, wrong, broken = (tmp_path / f"{name}.yaml" for name in ("good", "wrong", "broken"))
    good.write_text(VALID.replace("name: demo", "name: demo\n  namespace: team-a").replace("5e-6", "1e-3"))
    wrong.write_text(f"{SERVICE}---\n{VALID.replace('runs', 'Runs')}")
    broken.write_text("kind: FineTuneJob\na: [\n")
    result = finetune("validate", good, wrong, broken, "-o", "json")
    assert (result.exit_code, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert found["jobs"] == [
        {"file": str(good), "line": 1, "namespace": "team-a", "name": "demo", "valid": True},
        {"file": str(wrong), "line": 5, "namespace": None, "name": "demo", "valid": False},
    ]
    assert [(each["file"], each["line"], each["severity"], each["rule"]) for each in found["findings"]] == [
        (str(broken), 3, "error", "syntax"),
        (str(wrong), 18, "error", "schema"),
        (str(good), 13, "warning", "learning-rate-high"),
    ]
    assert [each["field"] for each in found["findings"]] == [
        "",
        "spec.storage.claimName",
        "spec.hyperparameters.learningRate",
    ]
    assert all(each["message"] for each in found["findings"])
    assert yaml.safe_load(finetune("validate", good, wrong, broken, "-o", "yaml").stdout) == found


def test_machine_output_of_nothing_is_a_document_too(tmp_path: Path) -> None:
    result = finetune("validate", tmp_path, "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"jobs": [], "findings": []}
