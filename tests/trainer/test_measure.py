"""`finetune-trainer measure`: what a run's data are like, as training would find them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_api.failure import ExitCode
from finetune_api.measured import Measured
from finetune_trainer.batches import Schedule
from finetune_trainer.packing import pack
from finetune_trainer.prepare.data_sets import prepare_all
from tiny import conversation, save_chat_data, save_tiny_model
from trainer.gangs import config
from trainer.sets import job
from world import manifest


def measure(file: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("finetune-trainer")), "measure", "--config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_finds_what_training_finds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=50, overlong=2)
    run = config(tmp_path, max_seq_len=128, max_tokens_per_gpu=128, effective_batch_size=8, nodes=2)
    (tmp_path / "run.json").write_text(run.to_json())
    # Weights tell nothing of the data.
    (tmp_path / "model" / "model.safetensors").unlink()
    before = sorted(tmp_path.rglob("*"))
    done = measure(tmp_path / "run.json")
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    measured = Measured.model_validate(json.loads(done.stdout))

    prepared = prepare_all(run, 256, lambda _: None).train
    # What is measured is not kept.
    assert measured.dataset == prepared.status.model_copy(update={"path": None})
    assert (measured.dataset.samples, measured.dataset.dropped) == (50, 2)
    schedule = Schedule(50, 8, run.hyperparameters.seed)
    lengths = prepared.samples.lengths
    counts = [
        len(pack(schedule.batch(step).samples, lengths, budget=128, world_size=2)[0]) for step in range(7)
    ]
    found = measured.micro_batches
    assert (found.min, found.mean, found.max) == (min(counts), sum(counts) / 7, max(counts))


def test_what_is_held_back_is_not_measured_nor_are_sets_that_are_elsewhere(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    rows = [conversation("hi", f"you {number}") for number in range(50)]
    run = job(tmp_path, tmp_path / "model", rows, split=0.2, sets={"here": rows, "there": rows})
    del run.locations.data["there"]
    (tmp_path / "run.json").write_text(run.to_json())
    done = measure(tmp_path / "run.json")
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert Measured.model_validate_json(done.stdout).dataset.samples == 40
    # What is here is looked at, so that what is wrong with it is known before the job.
    (tmp_path / "here.jsonl").write_text("{}\n")
    done = measure(tmp_path / "run.json")
    assert done.returncode == ExitCode.INVALID_DATA
    assert done.stderr.startswith("finetune-trainer: spec.evaluation.sets[here]: ")


def test_faults_of_the_data_are_named_as_in_training(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n' * 5)
    (tmp_path / "run.json").write_text(config(tmp_path).to_json())
    done = measure(tmp_path / "run.json")
    assert done.returncode == ExitCode.INVALID_DATA
    for line in range(1, 6):
        assert done.stderr.count(f"line {line}: messages: must be a list of at least one message") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("model/config.json", 'spec.model: "tiny" on claim "models"'),
        ("train.jsonl", 'spec.dataset.train: "train.jsonl" on claim "data"'),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, missing: str, said: str) -> None:
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=1)
    (tmp_path / missing).unlink()
    (tmp_path / "run.json").write_text(config(tmp_path).to_json())
    done = measure(tmp_path / "run.json")
    assert done.returncode == ExitCode.INVALID_CONFIGURATION
    assert done.stderr.startswith(f"finetune-trainer: {said}")
    assert done.stderr.count("\n") == 1


def planned(directory: Path, data: Path, **spec: Any) -> "subprocess.CompletedProcess[str]":
    """What the command line plans with the trainer beside it, for the model in the directory."""
    (directory / "job.json").write_text(json.dumps(manifest(**spec)))
    command = [
        str(Path(sys.executable).with_name("finetune")),
        "plan",
        str(directory / "job.json"),
        "-o",
        "json",
    ]
    options = ["--model-config", str(directory / "model"), "--dataset", str(data)]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_the_command_line_plans_with_what_is_measured(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    data = tmp_path / "train.jsonl"
    save_chat_data(data, samples=50, overlong=2)
    stated = {"maxSeqLen": 128, "maxTokensPerGpu": 128, "effectiveBatchSize": 8}
    done = planned(tmp_path, data, hyperparameters=stated)
    assert done.returncode == 0, done.stderr
    [job] = json.loads(done.stdout)["jobs"]
    # 50 samples, for two are too long; lengths are known, so micro-batches are counted and have a mean.
    assert (job["plan"]["stepsPerEpoch"], job["plan"]["totalSteps"]) == (7, 14)
    assert job["plan"]["microBatchesPerStep"]["mean"] > 1
    data.write_text('{"messages": 1}\n')
    done = planned(tmp_path, data, hyperparameters=stated)
    assert done.returncode == 1
    assert "line 1: messages" in done.stderr


def test_the_command_line_measures_documents_of_a_table(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    # The tokenizer knows bytes only: 10 documents of 31 tokens and their end are 5 blocks of 64.
    pq.write_table(pa.table({"text": ["x" * 31] * 10 + [" "]}), tmp_path / "train.parquet")
    stated = {"pretraining": {"blockSize": 64, "documentColumnName": "text"}, "effectiveBatchSize": 2}
    done = planned(tmp_path, tmp_path / "train.parquet", hyperparameters=stated)
    assert done.returncode == 0, done.stderr
    [job] = json.loads(done.stdout)["jobs"]
    assert job["plan"]["stepsPerEpoch"] == 3
