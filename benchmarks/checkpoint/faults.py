"""What a fault costs: steps that are done again, and seconds until training is where it was.

The job runs as `finetune run` runs it: with the operator's own decisions, and processes for pods. It is compared with
what Kubeflow Trainer makes of a script that keeps no state of its own: its pods are started again, and it begins anew.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trainer.worker import WorkerError
from benchmarks.trainer.workload import VOCABULARY, Corpus, Shape, save_conversations, save_model
from finetune_api import names
from finetune_api.report import StepRecord

# 5 million weights, and steps of a tenth of a second.
SHAPE = Shape(width=128, layers=4, heads=4, key_value_heads=4, feed_forward=344, vocabulary=VOCABULARY)
BATCH, STEPS, EVERY_STEPS = 4, 400, 10
REPETITIONS = 3
# The fault comes after a step between these, drawn at random.
_FIRST, _LAST = 60, 150
_SEED = 7
_LONGER_THAN_THIS_TAKES = 10080
# For a machine that is busy.
_PATIENCE = 300
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Fault:
    """How the trainer of a node ends."""

    name: str
    number: signal.Signals
    first_process: bool
    """Whether the container's first process gets the signal, as the kubelet sends it, or the one that trains."""


KILLED = Fault("training process killed", signal.SIGKILL, first_process=False)
EVICTED = Fault("pod evicted", signal.SIGTERM, first_process=True)
OURS, ANEW = "ours", "from step 0"
# A script that knows nothing of SIGTERM dies of it.
FAULTS = {OURS: (KILLED, EVICTED), ANEW: (KILLED,)}


@dataclass(frozen=True)
class Cost:
    """What one fault cost."""

    steps: int
    """Steps that were done again."""
    seconds: float
    """From the fault until the first step that had not been done before."""


def measure(scratch: Path, corpus: Corpus) -> dict[tuple[str, str], list[Cost]]:
    """The costs in every repetition, by system and name of the fault."""
    save_model(scratch / "models" / "small", corpus, SHAPE)
    (scratch / "data").mkdir()
    save_conversations(scratch / "data" / "train.jsonl", corpus, np.full(BATCH * STEPS, 40))
    draw = random.Random(_SEED)
    found: dict[tuple[str, str], list[Cost]] = {}
    for repetition in range(REPETITIONS):
        # Everybody meets the fault after the same step.
        after = draw.randint(_FIRST, _LAST)
        for system, faults in FAULTS.items():
            for number, fault in enumerate(faults):
                job = f"{'ours' if system == OURS else 'anew'}-{number}-{repetition}"
                cost = _once(scratch, _manifest(job, keeps_states=system == OURS), fault, after)
                print(f"{system}: {fault.name} after step {after}: {cost}", flush=True)
                found.setdefault((system, fault.name), []).append(cost)
    return found


def _manifest(name: str, *, keeps_states: bool) -> dict[str, Any]:
    """A job of a single epoch: where no states are asked for, none is saved before its end."""
    every = {"everySteps": EVERY_STEPS} if keeps_states else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "method": "sft",
            "model": {"volume": {"claimName": "models", "path": "small"}},
            "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
            "storage": {"claimName": "runs"},
            "hyperparameters": {"effectiveBatchSize": BATCH, "numEpochs": 1, "maxTokensPerGpu": 256},
            "checkpoints": {"everyEpoch": False, "everyMinutes": _LONGER_THAN_THIS_TAKES} | every,
            "resources": {"nodes": 1, "gpusPerNode": 0},
        },
    }


def _once(scratch: Path, manifest: dict[str, Any], fault: Fault, after: int) -> Cost:
    name = manifest["metadata"]["name"]
    metrics = scratch / "runs" / name / names.METRICS_FILE
    with _running(scratch, manifest) as command:
        _wait_for(command, metrics, attempt=1, step=after)
        os.kill(_process(command.pid, fault), fault.number)
        began = time.perf_counter()
        # What attempt 1 still does before it is gone belongs to what is lost, too.
        first, done = _first_of(command, metrics, attempt=2)
        _wait_for(command, metrics, attempt=2, step=done + 1)
        return Cost(done - (first - 1), time.perf_counter() - began)


@contextmanager
def _running(scratch: Path, manifest: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """`finetune run` in an own session; ended when that is left."""
    file, log = scratch / "job.json", scratch / "job.log"
    file.write_text(json.dumps(manifest))
    claims = [f"--claim={claim}={scratch / claim}" for claim in ("models", "data", "runs")]
    with log.open("wb") as output:
        command = subprocess.Popen(
            [str(Path(sys.executable).with_name("finetune")), "run", str(file), *claims],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield command
    finally:
        # Twice: the state need not be saved.
        for _ in range(2):
            command.send_signal(signal.SIGTERM)
            time.sleep(1)
        command.wait(_PATIENCE)


def _records(metrics: Path) -> list[StepRecord]:
    """The lines of the metrics file; the last one may still be being written."""
    try:
        text = metrics.read_text()
    except FileNotFoundError:
        return []
    return [
        StepRecord.model_validate_json(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"
    ]


def _wait_for(command: subprocess.Popen[bytes], metrics: Path, *, attempt: int, step: int) -> None:
    """Wait until an attempt has done a step."""
    for records in _watch(command, metrics):
        if records and records[-1].attempt == attempt and records[-1].step >= step:
            return


def _first_of(command: subprocess.Popen[bytes], metrics: Path, *, attempt: int) -> tuple[int, int]:
    """The first step that an attempt does, and the last one that was done before it."""
    done = 0
    for records in _watch(command, metrics):
        mine = [record.step for record in records if record.attempt == attempt]
        if mine:
            return mine[0], done
        # Before it begins, an attempt takes out the steps that it is going to do again.
        done = max([done, *(record.step for record in records)])
    raise AssertionError


def _watch(command: subprocess.Popen[bytes], metrics: Path) -> Iterator[list[StepRecord]]:
    deadline = time.monotonic() + _PATIENCE
    while True:
        yield _records(metrics)
        if command.poll() is not None or time.monotonic() > deadline:
            raise WorkerError(f"the job ended, or came no further: {metrics.parents[2] / 'job.log'}")
        time.sleep(_POLL_SECONDS)


def _process(command: int, fault: Fault) -> int:
    """The process that gets the signal: finetune run → first process → the one that trains."""
    [first] = _children(command)
    if fault.first_process:
        return first
    [training] = _children(first)
    return training


def _children(process: int) -> list[int]:
    """The processes that any thread of a process has started."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
