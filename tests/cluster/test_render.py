"""`finetune render --from-run NAME` makes the manifest that repeats a run of the job that the API server has."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube import FINETUNEJOBS, MERGE, Kube, Namespace
from clusters.local import ControlPlane
from finetune_api.facts import DataFacts
from finetune_api.inputs import Input
from finetune_api.plan import study
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus, Lengths

FINETUNE = str(Path(sys.executable).with_name("finetune"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPEC: dict[str, Any] = {"model": {"huggingFace": {"repo": "org/base-1b"}}, "method": "lora"}


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """An API server without an operator: these tests write what that writes."""
    with ControlPlane() as plane:
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        yield kube


def render(namespace: Namespace, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FINETUNE, "render", "--from-run", name, "-n", namespace.name],
        env=os.environ | {"KUBECONFIG": str(namespace.kube.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


def write_status(namespace: Namespace, name: str, *, samples: int | None) -> None:
    """What the operator writes of a job whose data have so many samples; None: before it knows."""
    job = FineTuneJob.model_validate(namespace.get(FINETUNEJOBS, name))
    data = samples and DataFacts(samples=samples, lengths=Lengths(p50=10, p95=20, p99=30, max=40))
    status = FineTuneJobStatus(
        plan=study(job.spec, data=data or None).plan,
        inputs=[Input(name="model", origin="the hub", revision=COMMIT, digest="sha256:d", bytes=1)],
    )
    path = namespace.path(FINETUNEJOBS, name) + "/status"
    namespace.kube.request("PATCH", path, {"status": status.to_wire()}, MERGE)


def test_the_api_server_takes_the_job_that_repeats_a_run(namespace: Namespace) -> None:
    namespace.submit("first", **SPEC)
    write_status(namespace, "first", samples=200)
    done = render(namespace, "first")
    assert (done.returncode, done.stderr) == (0, "")
    again = yaml.safe_load(done.stdout)
    assert again["spec"]["model"]["huggingFace"]["revision"] == COMMIT
    assert again["spec"]["hyperparameters"]["effectiveBatchSize"] == 32
    assert again["spec"]["storage"]["path"] == "first-repeated"
    again["metadata"]["name"] = "second"
    namespace.kube.request("POST", namespace.path(FINETUNEJOBS), again)


def test_a_job_whose_data_are_not_prepared_cannot_be_repeated(namespace: Namespace) -> None:
    namespace.submit("early", **SPEC)
    write_status(namespace, "early", samples=None)
    done = render(namespace, "early")
    assert (done.returncode, done.stdout) == (1, "")
    assert "finetunejob/early cannot be repeated: its data are not prepared yet" in done.stderr


def test_a_job_that_is_not_there_is_an_error(namespace: Namespace) -> None:
    done = render(namespace, "missing")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no finetunejob/missing in namespace {namespace.name}" in done.stderr
