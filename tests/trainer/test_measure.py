"""`finetune-trainer measure`: what a run's data are like, as training would find them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from finetune_api.measured import Measured
from finetune_trainer.batches import Schedule
from finetune_trainer.packing import pack
from finetune_trainer.prepare.pipeline import prepare
from tiny import save_chat_data, save_tiny_model
from trainer.gangs import config
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

    prepared = prepare(run, 256, lambda _: None)
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


def test_faults_of_the_data_are_named_as_in_training(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "run.json").write_text(config(tmp_path).to_json())
    done = measure(tmp_path / "run.json")
    assert done.returncode == ExitCode.INVALID_DATA
    assert "line 1" in done.stderr
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


def test_the_command_line_plans_with_what_is_measured(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=50, overlong=2)
    job = manifest(hyperparameters={"maxSeqLen": 128, "maxTokensPerGpu": 128, "effectiveBatchSize": 8})
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [
        str(Path(sys.executable).with_name("finetune")),
        "plan",
        str(tmp_path / "job.json"),
        "-o",
        "json",
    ]
    options = ["--model-config", str(tmp_path / "model"), "--dataset", str(tmp_path / "train.jsonl")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [planned] = json.loads(done.stdout)["jobs"]
    # 50 samples, for two are too long; lengths are known, so micro-batches are counted and have a mean.
    assert (planned["plan"]["stepsPerEpoch"], planned["plan"]["totalSteps"]) == (7, 14)
    assert planned["plan"]["microBatchesPerStep"]["mean"] > 1
    (tmp_path / "train.jsonl").write_text('{"messages": 1}\n')
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "line 1: messages" in done.stderr
