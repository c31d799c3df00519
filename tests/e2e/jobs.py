"""FineTuneJobs that train a tiny model on the CPU, and what they leave behind."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deploy import ROOT
from e2e.namespace import PATIENCE, Namespace
from tiny import save_chat_data, save_tiny_model


def manifest(name: str, *, nodes: int, data: str = "train.jsonl", **hyperparameters: Any) -> dict[str, Any]:
    """A FineTuneJob on the CPU whose result depends on nothing but its data and hyperparameters."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "method": "sft",
            "model": {"volume": {"claimName": "models", "path": "tiny"}},
            "dataset": {"train": {"volume": {"claimName": "data", "path": data}}},
            "storage": {"claimName": "runs"},
            "hyperparameters": {
                "learningRate": 1e-3,
                "effectiveBatchSize": 6,
                "numEpochs": 2,
                "maxSeqLen": 128,
                "maxTokensPerGpu": 128,
            }
            | hyperparameters,
            "resources": {"nodes": nodes, "gpusPerNode": 0, "requests": {"cpu": "100m", "memory": "2Gi"}},
        },
    }


def example(file: str, name: str, **hyperparameters: Any) -> dict[str, Any]:
    """The FineTuneJob of one of the examples, but with the model and data of `manifest`, and as small as those."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "examples" / file).read_text())
    small = manifest(name, nodes=job["spec"]["resources"]["nodes"], **hyperparameters)
    job["metadata"] = small["metadata"]
    job["spec"] |= {key: small["spec"][key] for key in ("model", "dataset", "storage", "resources")}
    job["spec"]["hyperparameters"] |= small["spec"]["hyperparameters"]
    return job


def save_inputs(namespace: Namespace, *, samples: int, overlong: int = 0) -> None:
    """A tiny model and so many samples, where `manifest` looks for them."""
    save_tiny_model(namespace.claim("models") / "tiny")
    save_chat_data(namespace.claim("data") / "train.jsonl", samples=samples, overlong=overlong)
    namespace.claim("runs")


def status(namespace: Namespace, job: str) -> dict[str, Any]:
    """What the operator tells of a job."""
    found: dict[str, Any] = namespace.get("finetunejob", job).get("status", {})
    return found


def condition(found: dict[str, Any], type_: str) -> dict[str, Any]:
    """What a status says under this type."""
    one: dict[str, Any]
    [one] = [condition for condition in found["conditions"] if condition["type"] == type_]
    return one


def events(namespace: Namespace, job: str) -> list[str]:
    """Reasons of all events about a job."""
    listed = namespace.get("events", "--field-selector", f"involvedObject.name={job}")["items"]
    return [event["reason"] for event in listed]


def step(namespace: Namespace, job: str) -> int:
    """The last step that the operator knows of; 0 before the first."""
    return int(status(namespace, job).get("progress", {}).get("step", 0))


def metrics(namespace: Namespace, job: str) -> list[dict[str, Any]]:
    """The line of every step, in the order in which they lie on the volume."""
    lines = (namespace.claim("runs") / job / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(namespace: Namespace, job: str) -> list[float]:
    """The loss of every step from the first on, each step told once."""
    found = metrics(namespace, job)
    assert [metric["step"] for metric in found] == list(range(1, len(found) + 1))
    return [metric["loss"] for metric in found]


def weights(output: Path) -> dict[str, bytes]:
    """The files of weights in the directory of a model, byte by byte."""
    found = {file.name: file.read_bytes() for file in sorted(output.glob("*.safetensors"))}
    assert found, f"{output} has no weights"
    return found


def poll(what: Callable[[], bool], *, seconds: float) -> None:
    """Wait until `what` holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(1)


def wait_for_upload(namespace: Namespace, job: str, truth: str) -> None:
    """Until the condition Published is so; a job has ended well before that."""
    namespace.wait(job, "condition=Succeeded")
    waiting = ("wait", f"finetunejob/{job}", f"--for=condition=Published={truth}", f"--timeout={PATIENCE}s")
    assert "condition met" in namespace.kubectl(*waiting, check=False), namespace.told_of(job)
