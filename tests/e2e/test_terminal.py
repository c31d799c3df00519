"""The commands at the terminal on real pods: their logs, what holds them up, and how a job went."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import run
from e2e.jobs import manifest, save_inputs
from e2e.namespace import PATIENCE, Namespace

FINETUNE = str(Path(sys.executable).with_name("finetune"))


def finetune(namespace: Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    kubeconfig = run("hack/cluster", "kubeconfig").splitlines()[-1]
    return subprocess.run(
        [FINETUNE, *arguments, "-n", namespace.name],
        env=os.environ | {"KUBECONFIG": kubeconfig},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def inputs(namespace: Namespace) -> Namespace:
    """The namespace with a tiny model and 20 samples."""
    save_inputs(namespace, samples=20)
    return namespace


def test_a_job_is_followed_and_then_told_by_its_logs_its_curve_and_its_checkpoints(inputs: Namespace) -> None:
    inputs.apply(manifest("told", nodes=2))
    watched = finetune(inputs, "watch", "told")
    assert watched.returncode == 0, watched.stderr
    assert "Succeeded" in watched.stdout
    logs = finetune(inputs, "logs", "told")
    assert logs.returncode == 0, logs.stderr
    lines = logs.stdout.splitlines()
    assert {line[:4] for line in lines} == {"0 | ", "1 | "}
    only = finetune(inputs, "logs", "told", "--rank", "1", "--tail", "3").stdout.splitlines()
    assert only == [line for line in lines if line.startswith("1 | ")][-3:]
    prepared = finetune(inputs, "logs", "told", "--step", "prepare")
    assert (prepared.returncode, prepared.stderr) == (0, "")
    assert prepared.stdout.splitlines()
    drawn = finetune(inputs, "plot", "told")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.startswith("loss per token   ━ told")
    listed = json.loads(finetune(inputs, "checkpoints", "told", "-o", "json").stdout)
    assert [result["step"] for result in listed["results"]] == [8]
    folder = inputs.claim("runs") / "told"
    beside = subprocess.run([FINETUNE, "checkpoints", folder], capture_output=True, text=True, check=False)
    assert beside.returncode == 0, beside.stderr
    assert beside.stdout.splitlines()[-1].endswith(f"result   {folder}/output")


def test_logs_are_followed_while_a_pod_prints(inputs: Namespace) -> None:
    inputs.apply(manifest("followed", nodes=1))
    inputs.follow("followed", lambda status: status.get("phase") in ("Starting", "Running"))
    followed = finetune(inputs, "logs", "followed", "--follow")
    assert followed.returncode == 0, followed.stderr
    # To the very end, from whatever moment on.
    assert followed.stdout == finetune(inputs, "logs", "followed").stdout


def test_a_claim_that_is_not_there_is_explained_in_the_schedulers_words(inputs: Namespace) -> None:
    job = manifest("homeless", nodes=1)
    job["spec"]["storage"]["claimName"] = "nowhere"
    inputs.apply(job)

    def is_told(_: dict[str, object]) -> bool:
        told = json.loads(finetune(inputs, "explain", "homeless", "-o", "json").stdout)
        return told["reason"] == "Unschedulable" and told["needsAttention"] is True

    inputs.follow("homeless", is_told)
    shown = finetune(inputs, "explain", "homeless").stdout
    assert 'persistentvolumeclaim "nowhere" not found' in shown
    assert "What to do\n  " in shown
    waiting = finetune(inputs, "logs", "homeless")
    assert waiting.returncode == 1
    assert "its container has not started" in waiting.stderr
    inputs.kubectl("delete", "finetunejob", "homeless")


def test_a_job_that_failed_is_explained_with_the_end_of_its_log(inputs: Namespace) -> None:
    inputs.apply(manifest("missing", nodes=1, data="missing.jsonl"))
    inputs.follow("missing", lambda status: status.get("phase") == "Failed")
    told = json.loads(finetune(inputs, "explain", "missing", "-o", "json").stdout)
    assert told["needsAttention"] is True
    assert "missing.jsonl" in told["summary"]
    logs = finetune(inputs, "logs", "missing")
    assert logs.returncode == 0, logs.stderr
    assert "missing.jsonl" in logs.stdout
