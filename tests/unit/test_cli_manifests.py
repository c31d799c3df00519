"""Where the commands look for FineTuneJobs, and how they read YAML and JSON."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from finetune_api.spec import FineTuneJobSpec
from terminal import SERVICE, VALID, finetune, parsed, problems


def test_a_folder_stands_for_all_manifests_below_it(tmp_path: Path) -> None:
    for name in ("b/two.yml", "a/one.yaml", "b/three.json", ".git/hidden.yaml", "a/README.md"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        job = parsed(VALID) | {"metadata": {"name": file.stem}}
        file.write_text(json.dumps(job) if file.suffix == ".json" else yaml.safe_dump(job))
    (tmp_path / "both.yaml").write_text(f"{SERVICE}---\n{VALID}")
    (tmp_path / "service.yaml").write_text(SERVICE)
    result = finetune("validate", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.findall("finetunejob/(.*) is valid", result.stdout) == ["demo", "one", "three", "two"]


def test_a_folder_without_a_job_is_not_valid(tmp_path: Path) -> None:
    result = finetune("validate", tmp_path)
    assert result.exit_code == 1
    assert f"there is no FineTuneJob in {tmp_path}" in result.stderr


def test_files_without_a_job_may_be_accepted(tmp_path: Path) -> None:
    other = tmp_path / "service.yaml"
    other.write_text(SERVICE)
    result = finetune("validate", "--ignore-not-found", other)
    assert (result.exit_code, result.output) == (0, "")


def test_what_does_not_speak_of_finetunejobs_may_be_anything(tmp_path: Path) -> None:
    template, listing, job = (tmp_path / name for name in ("template.yaml", "list.json", "job.yaml"))
    template.write_text("{{- if .Values.enabled }}\nkind: Deployment\n{{- end }}\n")
    listing.write_text("[1, 2]")
    job.write_text(VALID)
    result = finetune("validate", template, listing, job)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"{template}: skipped: there is no FineTuneJob in it",
        f"{listing}: skipped: there is no FineTuneJob in it",
    ]


def test_a_template_of_a_finetunejob_is_an_error(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("{{- if .Values.enabled }}\nkind: FineTuneJob\n{{- end }}\n")
    result = finetune("validate", "--ignore-not-found", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{template}:1: error: is not valid YAML: ")


@pytest.mark.parametrize("kind", [("v1", "List"), ("finetune.dev/v1alpha1", "FineTuneJobList")])
def test_a_list_is_looked_into(kind: tuple[str, str]) -> None:
    good, wrong = parsed(VALID), parsed(VALID.replace("sft", "sfr"))
    items = [good, yaml.safe_load(SERVICE), wrong]
    text = yaml.safe_dump({"apiVersion": kind[0], "kind": kind[1], "items": items}, sort_keys=False)
    result = finetune("validate", "-", stdin=text)
    assert result.exit_code == 1
    assert result.stdout == "finetunejob/demo is valid\n"
    note, problem = result.stderr.splitlines()
    assert note.endswith("skipped: Service is not a FineTuneJob")
    line = 1 + text.splitlines().index("    method: sfr")
    assert problem.startswith(f"<stdin>:{line}: error: spec.method: ")


def test_json_is_read_too_and_may_be_indented_by_tabs() -> None:
    job = parsed(VALID)
    # Beyond the Basic Multilingual Plane JSON escapes pairs of surrogates.
    job["metadata"]["annotations"] = {"note": "\N{PARTY POPPER}"}
    job["spec"]["hyperparameters"]["numEpochs"] = 0
    text = json.dumps(job, indent="\t")
    [problem] = problems(text)
    line = 1 + next(number for number, row in enumerate(text.splitlines()) if "numEpochs" in row)
    assert problem.startswith(f"{line}: error: spec.hyperparameters.numEpochs: ")


def test_a_mapping_in_braces_is_not_taken_for_json() -> None:
    text = yaml.safe_dump(parsed(VALID), default_flow_style=True)
    assert text.startswith("{")
    assert finetune("validate", "-", stdin=text).exit_code == 0


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").symlink_to(tmp_path / "missing")
    result = finetune("validate", tmp_path)
    assert result.exit_code == 1
    assert f"Error: {tmp_path}/broken.yaml: No such file or directory" in result.stderr


def test_what_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"kind: FineTuneJob\nmetadata: {name: \xff}\n")
    [problem] = finetune("validate", tmp_path).stderr.splitlines()
    assert ":1: error: is not a text file in UTF-8: " in problem


def test_deep_nesting_is_an_error() -> None:
    assert problems("# kind: FineTuneJob\n" + "[" * 5_000) == ["1: error: is nested too deeply"]


def test_an_unknown_field_of_the_metadata_is_an_error() -> None:
    [problem] = problems(VALID.replace("labels:", "label:"))
    assert problem.startswith("5: error: metadata.label: there is no such field; there are annotations, ")


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize("value", ["true", "1.10", "2024", "null"])
def test_labels_and_annotations_are_texts(field: str, value: str) -> None:
    [problem] = problems(VALID.replace("labels: {team: a}", f"{field}:\n    team: {value}"))
    assert problem.startswith(f"6: error: metadata.{field}.team: must be a text: put it in quotes (found ")
    assert finetune("validate", "-", stdin=VALID.replace("team: a", f"team: '{value}'")).exit_code == 0


def float_fields(model: type[BaseModel] = FineTuneJobSpec, path: str = "") -> Iterator[str]:
    """Every field of the spec that holds a number with a fraction."""
    for field in model.model_fields.values():
        types = [field.annotation, *get_args(field.annotation)]
        for kind in types:
            if kind is float:
                yield f"{path}{field.alias}"
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from float_fields(kind, f"{path}{field.alias}.")


@pytest.mark.parametrize("field", list(float_fields()))
@pytest.mark.parametrize("number", ["5e-1", "5E-1", "5.e-1", ".5", "+5e-1", "50e-2"])
def test_every_way_to_write_a_fraction_is_understood(field: str, number: str) -> None:
    *blocks, name = field.split(".")
    job = parsed(VALID)
    job["spec"]["method"] = next((block for block in blocks if block in ("osft", "lora")), "sft")
    # What early stopping needs.
    job["spec"]["dataset"]["validationSplit"] = 0.5
    block = job["spec"]
    for key in blocks:
        block = block.setdefault(key, {})
    block[name] = "NUMBER"
    result = finetune("validate", "-", stdin=yaml.safe_dump(job).replace("NUMBER", number))
    assert result.exit_code == 0, result.stderr
    assert finetune("validate", "-", stdin=yaml.safe_dump(job)).exit_code == 1


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_however_a_manifest_is_damaged_the_answer_is_a_verdict(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, min(start + 5, len(VALID))))
    put = data.draw(
        st.text(st.sampled_from("{}[]:,-&*!|>?%@`\"'#\n\t 01e.~=<yn\x00\ufeff\u2028"), max_size=3)
    )
    result = finetune("validate", "-", stdin=VALID[:start] + put + VALID[end:])
    assert result.exit_code in (0, 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)
