"""`finetune plan`: what it shows, how it looks, and what it exits with."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from finetune_api.architecture import from_config
from finetune_api.facts import DataFacts, ModelFacts
from finetune_api.plan import study
from finetune_api.spec import FineTuneJob
from finetune_operator.cli.main import cli
from world import manifest

CONFIGS = Path(__file__).parents[1] / "configs"
GPU = {"nodes": 1, "gpusPerNode": 1, "gpuMemory": "24Gi"}
LLAMA = {"volume": {"claimName": "models", "path": "llama-3.1-70b"}}


def written(directory: Path, name: str = "demo", **spec: Any) -> Path:
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest(name, **spec), sort_keys=False))
    return file


def rows(directory: Path, *lines: str) -> Path:
    file = directory / "train.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def plan(*arguments: str | Path, columns: int = 80, color: bool = False) -> Result:
    env = {"COLUMNS": str(columns), "FORCE_COLOR": "1" if color else None}
    return CliRunner(env=env).invoke(cli, ["plan", *map(str, arguments)])


def words(result: Result) -> str:
    """All that was printed, however its lines are broken."""
    return " ".join(result.stdout.split())


def test_values_that_are_chosen_come_with_their_reasons(tmp_path: Path) -> None:
    file = written(tmp_path, model=LLAMA, method="lora", resources={**GPU, "gpuMemory": "80Gi"})
    result = plan(file)
    assert result.exit_code == 0, result.output
    shown = words(result)
    assert f"finetunejob/demo {file}:1" in shown
    assert "lora of llama-3.1-70b (70 billion weights, by its name) on 1 GPU of 80 GiB" in shown
    for choice in study(FineTuneJob.model_validate(yaml.safe_load(file.read_text())).spec).plan.chosen:
        assert f"chosen: {choice.reason}" in shown
    assert "assumed the model has about 70 billion weights" in shown


def test_the_samples_of_a_dataset_are_counted_exactly(tmp_path: Path) -> None:
    file = written(tmp_path, hyperparameters={"effectiveBatchSize": 8, "numEpochs": 3})
    assert "steps not known before the samples are counted" in words(plan(file))
    data = rows(tmp_path, *['{"messages": []}'] * 41, "", "  ")
    assert "steps 18 (6 per epoch)" in words(plan(file, "--dataset", data))


@pytest.mark.parametrize(("share", "steps"), [(0.5, 50), (0.001, 100), (0.999, 1), (0.014, 99)])
def test_counted_samples_that_are_held_back_are_not_trained_on(
    tmp_path: Path, share: float, steps: int
) -> None:
    dataset = manifest()["spec"]["dataset"] | {"validationSplit": share}
    file = written(tmp_path, dataset=dataset, hyperparameters={"effectiveBatchSize": 10, "numEpochs": 1})
    data = rows(tmp_path, *(f'{{"messages": [{number}]}}' for number in range(1000)))
    assert f"steps {steps} ({steps} per epoch)" in words(plan(file, "--dataset", data))


def test_lines_that_are_no_samples_are_errors_with_their_numbers(tmp_path: Path) -> None:
    data = rows(tmp_path, '{"messages": []}', "[1]", "", "{", '"text"')
    result = plan(written(tmp_path), "--dataset", data)
    assert (result.exit_code, result.stdout) == (1, "")
    first, second, third = result.stderr.splitlines()
    assert first == f"{data}:2: error: must be an object: one sample per line"
    assert second.startswith(f"{data}:4: error: is not JSON (")
    assert third.startswith(f"{data}:5: error: ")


def test_of_data_that_is_wrong_throughout_the_beginning_is_shown(tmp_path: Path) -> None:
    result = plan(written(tmp_path), "--dataset", rows(tmp_path, *["wrong"] * 1_500))
    assert len(result.stderr.splitlines()) == 21
    assert result.stderr.endswith("and 1,480 more\n")


def test_lines_that_are_dropped_are_no_errors(tmp_path: Path) -> None:
    data = rows(tmp_path, *['{"messages": []}'] * 12, "{", "[]")
    dataset = {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}, "invalidRows": "Drop"}
    file = written(tmp_path, dataset=dataset, hyperparameters={"effectiveBatchSize": 4, "numEpochs": 1})
    result = plan(file, "--dataset", data)
    assert "steps 3 (3 per epoch)" in words(result)
    assert f"{data}: counted without 2 lines that are no samples, not measured" in result.stderr
    nothing = plan(file, "--dataset", rows(tmp_path, "{"))
    assert (nothing.exit_code, nothing.stdout) == (1, "")


@pytest.mark.parametrize("name", ["train.json", "train.parquet", "train.CSV"])
def test_what_only_the_trainer_reads_is_planned_without(tmp_path: Path, name: str) -> None:
    data = tmp_path / name
    data.write_text("")
    result = plan(written(tmp_path), "--dataset", data)
    assert result.exit_code == 0
    assert "steps not known before the samples are counted" in words(result)
    assert f"{data}: neither counted nor measured: only a model's directory with its tok" in result.stderr


def test_lines_of_documents_are_not_counted_as_samples(tmp_path: Path) -> None:
    documents = {"pretraining": {"blockSize": 512}}
    data = rows(tmp_path, *['{"document": "a"}'] * 12)
    result = plan(written(tmp_path, hyperparameters=documents), "--dataset", data)
    assert "steps not known before the samples are counted" in words(result)
    assert f"{data}: counted, not measured: " in result.stderr


def test_a_name_that_tells_no_format_is_an_error(tmp_path: Path) -> None:
    data = rows(tmp_path, "{}").rename(tmp_path / "train.txt")
    result = plan(written(tmp_path), "--dataset", data)
    assert result.exit_code == 1
    assert f"Error: {data}: the name must end in .jsonl, .json, .parquet or .csv" in result.stderr


def test_data_without_a_sample_is_an_error(tmp_path: Path) -> None:
    result = plan(written(tmp_path), "--dataset", rows(tmp_path, "", ""))
    assert result.exit_code == 1
    assert "there is no sample in it" in result.stderr


@pytest.mark.parametrize("as_directory", [True, False])
def test_a_configuration_gives_exact_numbers(tmp_path: Path, as_directory: bool) -> None:
    config = tmp_path / "config.json"
    config.write_text((CONFIGS / "qwen2.5-0.5b.json").read_text())
    result = plan(written(tmp_path), "--model-config", tmp_path if as_directory else config)
    assert "494 million weights, by its config.json" in words(result)
    assert "trained weights 494,032,768" in words(result)


def test_adapters_are_told_with_their_layers_scale_share_and_what_they_are_merged_into(
    tmp_path: Path,
) -> None:
    def shown(**lora: Any) -> str:
        config = CONFIGS / "qwen2.5-0.5b.json"
        return words(plan(written(tmp_path, method="lora", lora=lora), "--model-config", config))

    everything = shown()
    # Rank 16 beside all of 24 blocks' 7 linear layers: 8,798,208 of 494,032,768.
    assert "trained weights 8,798,208, 1.78% of the model's" in everything
    assert (
        "adapters beside every linear layer of the blocks (168 layers), scaled by 2 (alpha / r) "
        in everything
    )
    assert "an adapter, of each checkpoint and at the end 34 MiB" in everything
    assert "merg" not in everything
    some = shown(targetModules=["q_proj", "v_proj"], r=64, useRslora=True, useDora=True, mergeAdapter=True)
    assert "adapters beside q_proj, v_proj (48 layers), scaled by 16 (rsLoRA: alpha / sqrt(r)); " in some
    assert "(DoRA)" in some
    assert re.search(r"merging at the end, in a pod without GPU, with \d\.\d GiB of memory", some)
    assert "the model that the adapter is merged into, in 16 bits 942 MiB" in some


def test_of_a_model_of_which_only_the_size_is_known_no_layers_are_counted(tmp_path: Path) -> None:
    shown = words(plan(written(tmp_path, model=LLAMA, method="lora", lora={"targetModules": ["attention"]})))
    assert "adapters beside attention, scaled by 2 (alpha / r) " in shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "is not JSON"), ("[]", "must be an object"), ('{"model_type": "resnet"}', "resnet")],
)
def test_what_is_no_configuration_of_a_model_is_an_error(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    result = plan(written(tmp_path), "--model-config", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {config}: ")
    assert complaint in result.stderr


def test_a_directory_without_configuration_is_an_error(tmp_path: Path) -> None:
    result = plan(written(tmp_path), "--model-config", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}/config.json: No such file" in result.stderr


def test_a_model_of_unknown_size_is_said_to_be_so(tmp_path: Path) -> None:
    assert "Memory not known: the model's name does not tell its size" in words(plan(written(tmp_path)))


def test_what_certainly_does_not_fit_exits_1_with_changes_that_help(tmp_path: Path) -> None:
    file = written(tmp_path, model=LLAMA, resources=GPU)
    config = CONFIGS / "llama-3.1-70b.json"
    result = plan(file, "--model-config", config)
    assert result.exit_code == 1
    spec = FineTuneJob.model_validate(yaml.safe_load(file.read_text())).spec
    expected = study(spec, ModelFacts(from_config(json.loads(config.read_text()))))
    shown = words(result)
    assert "Does not fit into 90% of a GPU's 24 GiB." in shown
    assert len(expected.remedies) >= 2
    for remedy in expected.remedies:
        assert f"- {remedy}" in shown
    assert "error spec.resources.gpuMemory: " in shown


def test_what_does_not_fit_by_a_guess_alone_exits_0(tmp_path: Path) -> None:
    result = plan(written(tmp_path, model=LLAMA, resources=GPU))
    assert result.exit_code == 0
    assert "Does not fit" in words(result)


def test_machine_output_is_the_plan_of_the_status_and_the_findings(tmp_path: Path) -> None:
    file = written(tmp_path, model=LLAMA, resources=GPU)
    invalid = written(tmp_path, "wrong", method="sfr")
    config, data = CONFIGS / "llama-3.1-70b.json", rows(tmp_path, "{}", "{}")
    options = ("--model-config", config, "--dataset", data)
    result = plan(file, invalid, *options, "-o", "json")
    assert result.exit_code == 1
    assert result.stderr == ""
    found = json.loads(result.stdout)
    spec = FineTuneJob.model_validate(yaml.safe_load(file.read_text())).spec
    model = ModelFacts(from_config(json.loads(config.read_text())))
    expected = study(spec, model, DataFacts(samples=2))
    assert found["jobs"] == [
        {
            "file": str(file),
            "line": 1,
            "namespace": None,
            "name": "demo",
            "valid": True,
            "plan": expected.plan.to_wire(),
            "remedies": [
                {"change": remedy.change, "memoryPerGpu": remedy.estimate} for remedy in expected.remedies
            ],
        },
        {"file": str(invalid), "line": 1, "namespace": None, "name": "wrong", "valid": False},
    ]
    assert [(finding["file"], finding["rule"]) for finding in found["findings"]] == [
        (str(invalid), "schema"),
        *((str(file), finding.rule) for finding in expected.findings),
    ]
    assert yaml.safe_load(plan(file, invalid, *options, "-o", "yaml").stdout) == found


def test_valid_jobs_are_planned_beside_invalid_ones(tmp_path: Path) -> None:
    written(tmp_path, "good")
    written(tmp_path, "wrong", method="sfr")
    written(tmp_path, "last")
    result = plan(tmp_path)
    assert result.exit_code == 1
    assert "error: spec.method" in result.stderr
    assert re.findall(r"^finetunejob/(\w+)", result.stdout, re.MULTILINE) == ["good", "last"]


def test_files_without_a_job_are_an_error(tmp_path: Path) -> None:
    result = plan(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no FineTuneJob in {tmp_path}" in result.stderr


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_width_shows_every_number_in_one_piece(tmp_path: Path, columns: int) -> None:
    file = written(tmp_path, model=LLAMA, resources=GPU)
    result = plan(file, "--model-config", CONFIGS / "llama-3.1-70b.json", columns=columns)
    heading, *lines = result.stdout.splitlines()
    # A path is for copying: it stays in one piece.
    assert heading == f"finetunejob/demo  {file}:1"
    assert all(len(line) <= columns for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert "…" not in result.stdout
    [total] = [line for line in lines if line.startswith("  total")]
    assert total.count("GiB") == 3
    assert "trained weights  70,553,706,496" in result.stdout


def test_pipes_get_no_colours_and_terminals_do(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert "\x1b[" not in plan(file).stdout
    assert "\x1b[" in plan(file, color=True).stdout


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    file = written(tmp_path, model={"volume": {"claimName": "models", "path": "[bold]tiny[/bold]"}})
    assert "sft of [bold]tiny[/bold] on 2 processes without GPU" in words(plan(file))


@pytest.mark.parametrize("option", ["--model-config", "--dataset"])
def test_a_missing_file_is_wrong_usage(tmp_path: Path, option: str) -> None:
    assert plan(written(tmp_path), option, tmp_path / "missing").exit_code == 2
