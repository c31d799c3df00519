"""What kubectl answers to a job that would have failed hours later: API server and installed webhook together."""

import json
import subprocess
from typing import Any

import pytest

from e2e.namespace import Namespace, kubectl


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "answered"},
        "spec": {
            "method": "sft",
            "model": {"volume": {"claimName": "models", "path": "llama-3.1-8b-instruct"}},
            "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
            "storage": {"claimName": "runs"},
            "resources": {"nodes": 1, "gpusPerNode": 8, "gpuMemory": "80Gi"},
        }
        | spec,
    }


def apply(namespace: Namespace, manifest: dict[str, Any]) -> tuple[int, str]:
    """Exit code and complaints of `kubectl apply`; the server only tries, so nothing is left behind."""
    command = [*kubectl(), "--namespace", namespace.name, "apply", "--filename", "-"]
    done = subprocess.run(
        [*command, "--dry-run=server"],
        input=json.dumps(manifest),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_good_job_is_taken_without_a_word(namespace: Namespace) -> None:
    code, said = apply(namespace, job(hyperparameters={"learningRate": 2e-6, "maxSeqLen": 4096}))
    assert (code, [line for line in said.splitlines() if line.startswith("Warning")]) == (0, [])


@pytest.mark.parametrize(
    ("spec", "warning"),
    [
        (
            {"hyperparameters": {"learningRate": 1e-3}},
            "spec.hyperparameters.learningRate: 1e-3 is 200 times 5e-6, the most to start sft with",
        ),
        (
            {
                "model": {"volume": {"claimName": "models", "path": "llama-3.3-70b-instruct"}},
                "resources": {"nodes": 1, "gpusPerNode": 1, "gpuMemory": "24Gi"},
            },
            "Fits: method: lora, lora.loadIn4Bit: true, lora.enableModelSplitting: true, gpusPerNode: 4 "
            "(15 GiB each); or gpuMemory: 80Gi, nodes: 3, gpusPerNode: 8 (64 GiB each)",
        ),
    ],
)
def test_advice_is_printed_and_the_job_is_taken(
    namespace: Namespace, spec: dict[str, Any], warning: str
) -> None:
    code, said = apply(namespace, job(**spec))
    assert code == 0, said
    [line] = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert warning in line


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (
            {"method": "lora", "lora": {"loadIn4Bit": True, "loadIn8Bit": True}},
            "loadIn4Bit and loadIn8Bit exclude each other: keep loadIn4Bit for the least memory",
        ),
        (
            {"hyperparameters": {"pretraining": {}}},
            "blockSize is required: 2048 is a good start, 512 is better for short or very many documents",
        ),
        (
            {"method": "osft", "osft": {"targetPatterns": ["mlp", "(unclosed"]}},
            "spec.osft.targetPatterns[1]: is not a regular expression",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_remedy(
    namespace: Namespace, spec: dict[str, Any], fault: str
) -> None:
    code, said = apply(namespace, job(**spec))
    assert code != 0
    assert fault in said
