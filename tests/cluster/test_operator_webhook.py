"""What kubectl says to whoever creates or changes a FineTuneJob: the operator's webhook as the chart configures it.

API server and operator are processes of one machine here, so the configuration has a URL in the place of a Service.
"""

import base64
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.chart import rendered
from cluster.kube import FINETUNEJOBS, Kube, Namespace, RefusedError, eventually
from cluster.operators import Operator
from clusters.binaries import ensure
from world import manifest

Wire = dict[str, Any]

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
BAD: Wire = {"method": "osft", "osft": {"targetPatterns": ["q_proj", "layers[", "(?P<x"]}}
FAULTS = ("spec.osft.targetPatterns[1]: ", "spec.osft.targetPatterns[2]: ")
GOOD: Wire = {"method": "sft", "osft": None}


def path_of(configuration: Wire) -> str:
    """Where its Service is asked."""
    [webhook] = configuration["webhooks"]
    path: str = webhook["clientConfig"]["service"]["path"]
    return path


@contextmanager
def asked(kube: Kube, operator: Operator) -> Iterator[None]:
    """The API server asks the operator about FineTuneJobs, and is known to do so."""
    configuration = rendered("ValidatingWebhookConfiguration")
    authority = (operator.directory / "tls" / "ca.crt").read_bytes()
    configuration["webhooks"][0]["clientConfig"] = {
        "url": f"https://127.0.0.1:{operator.webhook_port}{path_of(configuration)}",
        "caBundle": base64.b64encode(authority).decode(),
    }
    kube.request("POST", CONFIGURATIONS, configuration, fieldValidation="Strict")
    try:
        eventually(lambda: is_denied(kube))
        yield
    finally:
        kube.request("DELETE", f"{CONFIGURATIONS}/{configuration['metadata']['name']}")
        eventually(lambda: not is_denied(kube))


def is_denied(kube: Kube) -> bool:
    try:
        kube.request("POST", FINETUNEJOBS.format(namespace="default"), manifest(**BAD), dryRun="All")
    except RefusedError as error:
        return "denied the request" in str(error)
    return False


@pytest.fixture
def webhook(kube: Kube, operator: Operator) -> Iterator[None]:
    with asked(kube, operator):
        yield


class Kubectl:
    """What a user sees in the terminal."""

    def __init__(self, namespace: Namespace) -> None:
        self._options = (f"--kubeconfig={namespace.kube.kubeconfig}", f"--namespace={namespace.name}")

    def apply(self, *options: str, **spec: Any) -> tuple[int, list[str]]:
        """`kubectl apply` of the demo job; returns its exit code and the lines that it printed."""
        command = [str(ensure(["kubectl"])["kubectl"]), *self._options, "apply", "--filename=-", *options]
        done = subprocess.run(
            command, input=json.dumps(manifest(**spec)), capture_output=True, text=True, check=False
        )
        return done.returncode, (done.stderr + done.stdout).splitlines()


@pytest.fixture
def kubectl(namespace: Namespace) -> Kubectl:
    return Kubectl(namespace)


def rejected(namespace: Namespace, reason: str) -> str:
    """Wait until the demo job is refused for this reason; returns the message."""

    def refused() -> Wire:
        condition = namespace.condition("Accepted")
        assert (condition["status"], condition["reason"]) == ("False", reason)
        return condition

    message: str = eventually(refused)["message"]
    assert namespace.status()["phase"] == "Failed"
    assert "startTime" not in namespace.status()
    assert namespace.condition("Stalled")["status"] == "True"
    assert namespace.belongings() == []
    assert eventually(lambda: namespace.events() == [reason])
    return message


# With the webhook


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize("options", [(), ("--dry-run=server",)])
def test_advice_is_printed_and_the_job_is_taken(
    kubectl: Kubectl, namespace: Namespace, options: tuple[str, ...]
) -> None:
    code, lines = kubectl.apply(*options, hyperparameters={"learningRate": 1e-3})
    assert code == 0
    [said] = [line for line in lines if line.startswith("Warning: spec.hyperparameters.learningRate: ")]
    assert "5e-6" in said
    assert any("finetunejob.finetune.dev/demo created" in line for line in lines)
    assert bool(namespace.all(FINETUNEJOBS)) == (not options)


SMALL = {"nodes": 1, "gpusPerNode": 1, "gpuMemory": "24Gi"}
LARGE_MODEL = {"volume": {"claimName": "models", "path": "llama-3.1-70b"}}


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ({"hyperparameters": {"learningRate": 1e-3}}, 0, ["learningRate", "5e-6"]),
        ({"model": LARGE_MODEL, "resources": SMALL}, 0, ["Warning: spec.", "GiB", "24 GiB"]),
        (
            {"method": "lora", "lora": {"loadIn4Bit": True, "loadIn8Bit": True}},
            1,
            ["loadIn4Bit and loadIn8Bit exclude each other: keep loadIn4Bit"],
        ),
        ({"hyperparameters": {"pretraining": {}}}, 1, ["blockSize"]),
    ],
)
def test_mistakes_are_answered_before_there_is_a_pod(
    kubectl: Kubectl, namespace: Namespace, spec: Wire, code: int, words: list[str]
) -> None:
    status, lines = kubectl.apply("--dry-run=server", **spec)
    said = "\n".join(lines)
    assert status == code, said
    assert all(word in said for word in words), said
    assert namespace.all(FINETUNEJOBS) == []


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize("options", [(), ("--dry-run=server",)])
def test_a_fault_that_no_schema_can_tell_is_denied_with_all_the_others(
    kubectl: Kubectl, namespace: Namespace, operator: Operator, options: tuple[str, ...]
) -> None:
    logged = len(operator.log.read_text())
    code, lines = kubectl.apply(*options, **BAD)
    assert code == 1
    assert 'admission webhook "validate.finetune.dev" denied the request: ' in lines[0]
    assert [line.startswith(f"* {fault}") for line, fault in zip(lines[1:], FAULTS, strict=True)] == [
        True
    ] * 2
    assert namespace.all(FINETUNEJOBS) == []
    # Such as a traceback; of a fault in a spec nobody else is to be told.
    assert '"level": "error"' not in operator.log.read_text()[logged:]


@pytest.mark.usefixtures("webhook")
def test_an_edit_is_judged_like_a_new_job(kubectl: Kubectl, namespace: Namespace) -> None:
    # What is suspended from the start may still be changed.
    namespace.submit(suspend=True)
    code, lines = kubectl.apply(**BAD)
    assert code == 1
    assert "denied the request" in "".join(lines)
    code, lines = kubectl.apply(suspend=True, hyperparameters={"learningRate": 1e-2})
    assert code == 0
    assert "Warning: spec.hyperparameters.learningRate: " in "\n".join(lines)


@pytest.mark.usefixtures("operator")
def test_a_job_with_an_old_fault_stays_editable(kube: Kube, namespace: Namespace, operator: Operator) -> None:
    namespace.submit(**BAD)
    with asked(kube, operator):
        namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"a": "b"}, "finalizers": ["a.b/c"]}})
        namespace.patch(FINETUNEJOBS, "demo", {"spec": {"failurePolicy": {"maxRestarts": 7}}})
        with pytest.raises(RefusedError, match="denied the request"):
            namespace.patch(FINETUNEJOBS, "demo", {"spec": {"osft": {"targetPatterns": ["other["]}}})
        namespace.delete(FINETUNEJOBS, "demo")
        namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"finalizers": None}})
    eventually(lambda: namespace.all(FINETUNEJOBS) == [])


@pytest.mark.usefixtures("webhook")
def test_an_operator_that_is_away_blocks_nobody(
    kubectl: Kubectl, namespace: Namespace, operator: Operator
) -> None:
    operator.kill()
    try:
        started = time.monotonic()
        namespace.kube.request("POST", namespace.path(FINETUNEJOBS), manifest(**BAD), dryRun="All")
        assert time.monotonic() - started < 5
        code, lines = kubectl.apply(**BAD)
        assert (code, lines) == (0, ["finetunejob.finetune.dev/demo created"])
    finally:
        operator.start()
    message = rejected(namespace, "Invalid")
    assert all(fault in message for fault in FAULTS)


# Without it


@pytest.mark.usefixtures("operator")
def test_without_the_webhook_the_status_tells_every_fault(kubectl: Kubectl, namespace: Namespace) -> None:
    code, _ = kubectl.apply(**BAD)
    assert code == 0
    message = rejected(namespace, "Invalid")
    assert all(fault in message for fault in FAULTS)
    namespace.patch(FINETUNEJOBS, "demo", {"spec": GOOD})
    namespace.in_phase("Preparing")
    assert namespace.condition("Accepted")["status"] == "True"
    assert namespace.pods(count=1, attempt=0)


@pytest.mark.usefixtures("operator")
def test_no_fault_is_lost_however_many_there_are(namespace: Namespace) -> None:
    namespace.submit(method="osft", osft={"targetPatterns": [f"({number}" for number in range(64)]})
    message = rejected(namespace, "Invalid")
    assert all(f"spec.osft.targetPatterns[{number}]: " in message for number in range(64))


# The endpoint itself


def post(operator: Operator, body: bytes, path: str = "/validate") -> tuple[int, Wire]:
    """Ask the webhook as the API server does, checking its certificate."""
    context = ssl.create_default_context(cafile=str(operator.directory / "tls" / "ca.crt"))
    request = urllib.request.Request(f"https://127.0.0.1:{operator.webhook_port}{path}", data=body)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, {}


def test_the_configuration_names_what_is_served(operator: Operator) -> None:
    [webhook] = (configuration := rendered("ValidatingWebhookConfiguration"))["webhooks"]
    [rule] = webhook["rules"]
    assert rule["resources"] == ["finetunejobs"]
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "resource": {"group": "finetune.dev", "version": "v1alpha1", "resource": "finetunejobs"},
            "operation": "CREATE",
            "userInfo": {},
            "object": manifest(**BAD),
        },
    }
    code, answer = eventually(lambda: post(operator, json.dumps(review).encode(), path_of(configuration)))
    assert code == 200
    assert answer["apiVersion"] in [f"admission.k8s.io/{v}" for v in webhook["admissionReviewVersions"]]
    assert (answer["response"]["allowed"], answer["response"]["status"]["code"]) == (False, 422)


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[]", b'{"request": {"resource": 1}}', b"[" * 100_000])
def test_nonsense_does_no_harm(operator: Operator, body: bytes) -> None:
    code, _ = eventually(lambda: post(operator, body))
    assert code >= 400
    assert operator.get("/healthz")[0] == 200
