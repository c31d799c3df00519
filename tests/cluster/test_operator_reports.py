"""The report endpoint: a real TLS server, real projected tokens, reviewed by a real API server."""

import json
import re
import socket
import time
from dataclasses import dataclass

import pytest

from cluster.kube import FINETUNEJOBS, PODS, Namespace, eventually
from cluster.operators import Operator
from finetune_api.curve import Curve
from finetune_api.inputs import Input
from finetune_api.report import MAX_REPORT_BYTES, ReportReply, Stage
from finetune_api.status import Subspaces
from finetune_operator.lifecycle.outcome import PROGRESS_INTERVAL
from world import INLINE, SUBSPACES, checkpoint, report


@dataclass(frozen=True)
class Gang:
    """Two running pods of the demo job."""

    namespace: Namespace
    operator: Operator
    pods: list[str]

    def post(self, body: object = None, *, token: str | None = None, name: str = "demo") -> tuple[int, str]:
        """POST as rank 0; returns the status and the error, if any."""
        raw = body if isinstance(body, bytes) else None
        code, answer = self.operator.post(
            self.namespace.name,
            name,
            raw if raw is not None else body or report(),  # type: ignore[arg-type]
            token=self.namespace.token(self.pods[0]) if token is None else token,
        )
        return code, answer.get("error", "")


def drawn(last: int, gap: int | None = None) -> Curve:
    """A curve of so many steps, one of which was not finite."""
    numbers = [None if step == gap else float(step) for step in range(1, last + 1)]
    return Curve(steps=[*range(1, last + 1)], loss=numbers, learning_rate=numbers, tokens_per_second=numbers)


@pytest.fixture
def gang(namespace: Namespace, operator: Operator) -> Gang:
    namespace.submit(dataset=INLINE)
    pods = namespace.pods()
    namespace.run_pods(pods)
    return Gang(namespace, operator, pods)


def test_a_report_becomes_the_status(gang: Gang) -> None:
    token = gang.namespace.token(gang.pods[0])
    code, answer = gang.operator.post(gang.namespace.name, "demo", report(step=12), token=token)
    assert code == 200
    # A little longer where other jobs wait to be reconciled.
    assert 5 <= ReportReply.model_validate(answer).next_report_seconds < 6
    status = gang.namespace.in_phase("Running")
    assert status["progress"]["summary"] == "12/36 (33%)"


def test_a_decomposition_is_counted_and_then_told(gang: Gang) -> None:
    begun = Subspaces(decomposed=3, of=14)
    assert gang.post(report(step=None, stage=Stage.LOADING, subspaces=begun)) == (200, "")
    status = gang.namespace.in_phase("Running")
    assert status["subspaces"] == {"decomposed": 3, "of": 14, "matrices": []}
    assert gang.namespace.condition("Progressing")["message"] == "decomposing weight matrices: 3 of 14"
    assert gang.post(report(sequence=2, subspaces=SUBSPACES)) == (200, "")
    eventually(lambda: gang.namespace.status()["subspaces"] == SUBSPACES.to_wire())


def test_the_latest_sequence_wins(gang: Gang) -> None:
    assert gang.post(report(sequence=5, step=5)) == (200, "")
    gang.namespace.in_phase("Running")
    assert gang.post(report(sequence=4, step=30)) == (200, "")
    assert gang.post(report(sequence=6, step=6, checkpoints=[checkpoint(6)])) == (200, "")
    eventually(lambda: gang.namespace.status()["progress"]["step"] == 6)


def test_progress_is_written_rarely_and_a_checkpoint_at_once(gang: Gang) -> None:
    token, started = gang.namespace.token(gang.pods[0]), time.monotonic()
    gang.post(report(sequence=1, step=1), token=token)
    gang.namespace.in_phase("Running")
    version = gang.namespace.job()["metadata"]["resourceVersion"]
    for step in range(2, 12):
        gang.post(report(sequence=step, step=step, curve=drawn(step)), token=token)
    time.sleep(1.5)
    passed = time.monotonic() - started
    gang.post(report(sequence=12, step=12, curve=drawn(12), checkpoints=[checkpoint(12)]), token=token)
    eventually(lambda: gang.namespace.status()["progress"]["step"] == 12, seconds=60)
    gang.post(report(sequence=13, step=13, checkpoints=[checkpoint(12)]), token=token)
    eventually(lambda: gang.namespace.status()["progress"]["step"] == 13, seconds=60)
    changes = gang.namespace.kube.since(gang.namespace.path(FINETUNEJOBS), version)
    written = {change["object"]["status"]["progress"]["step"] for change in changes}
    # None, unless the machine was slow.
    assert len(written & set(range(2, 12))) <= passed / PROGRESS_INTERVAL.total_seconds()


def test_a_curve_with_a_gap_becomes_the_status(gang: Gang) -> None:
    assert gang.post(report(step=3, curve=drawn(3, gap=2))) == (200, "")
    status = gang.namespace.in_phase("Running")
    assert status["curve"] == {
        "steps": [1, 2, 3],
        "loss": [1.0, None, 3.0],
        "learningRate": [1.0, None, 3.0],
        "tokensPerSecond": [1.0, None, 3.0],
        "validationSteps": [],
        "validationLoss": [],
    }


def test_text_of_any_kind_gets_into_objects_and_status(namespace: Namespace, operator: Operator) -> None:
    text = "é漢😀\x7f\x85\ufeff\uffff"
    namespace.submit(dataset=INLINE, model={"volume": {"claimName": "models", "path": "é漢😀"}})
    pods = namespace.pods()
    namespace.run_pods(pods)
    origin = Input(name="model", origin=text, digest="d", bytes=1)
    told = report(inputs=[origin])
    assert operator.post(namespace.name, "demo", told, token=namespace.token(pods[0]))[0] == 200
    assert namespace.in_phase("Running")["inputs"] == [origin.to_wire()]


def test_what_is_not_a_number_does_not_get_into_the_status(gang: Gang) -> None:
    wire = json.loads(report(step=2).to_json())
    wire["metrics"]["loss"] = float("nan")
    assert gang.post(json.dumps(wire).encode()) == (200, "")
    status = gang.namespace.in_phase("Running")
    assert status["progress"]["step"] == 2
    assert "loss" not in status["progress"]


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_without_a_valid_token(gang: Gang, token: str) -> None:
    code, error = gang.post(token=token)
    assert code == 401
    assert "token" in error


def test_a_token_for_somebody_else_is_not_accepted(gang: Gang) -> None:
    code, error = gang.post(
        token=gang.namespace.token(gang.pods[0], audience="https://kubernetes.default.svc")
    )
    assert code == 401
    assert "finetune.dev" in error


def test_a_token_that_no_pod_is_bound_to(gang: Gang) -> None:
    code, error = gang.post(token=gang.namespace.token(gang.pods[0], bound=False))
    assert code == 403
    assert "not bound to a pod" in error


def test_a_pod_of_another_kind(gang: Gang) -> None:
    pod = {"metadata": {"name": "other"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    gang.namespace.create(PODS, pod)
    code, error = gang.post(token=gang.namespace.token("other"))
    assert code == 403
    assert "belongs to no FineTuneJob" in error


def test_a_pod_of_another_job(gang: Gang) -> None:
    gang.namespace.submit("neighbour")
    code, error = gang.post(name="neighbour")
    assert code == 403
    assert f"belongs to {gang.namespace.name}/demo" in error


def test_a_pod_of_another_attempt(gang: Gang) -> None:
    code, error = gang.post(report(attempt=2))
    assert code == 403
    assert "attempt 1" in error


def test_a_pod_that_is_gone_is_not_believed_for_long(gang: Gang) -> None:
    token = gang.namespace.token(gang.pods[0])
    gang.namespace.delete(PODS, gang.pods[0], gracePeriodSeconds=0)
    eventually(lambda: gang.pods[0] not in [p["metadata"]["name"] for p in gang.namespace.all(PODS)])
    assert gang.post(token=token)[0] == 401


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "no Report"),
        (b"[]", ""),
        (b'{"attempt": 1}', "sequence"),
        (report().to_json().replace("{", '{"extra": 1, ', 1).encode(), "extra"),
        (report().to_json().replace('"step"', '"stride": 1, "step"', 1).encode(), "stride"),
        (report(sequence=10**20).to_json().encode(), "64 bits"),
    ],
)
def test_what_is_no_report(gang: Gang, body: bytes, words: str) -> None:
    code, error = gang.post(body)
    assert code == 422
    assert words in error


def test_a_body_that_is_too_large(gang: Gang) -> None:
    code, error = gang.post(b" " * (MAX_REPORT_BYTES + 1))
    assert code == 413
    assert str(MAX_REPORT_BYTES) in error


def test_a_body_as_large_as_may_be(gang: Gang) -> None:
    body = report().to_json().encode()
    assert gang.post(body + b" " * (MAX_REPORT_BYTES - len(body)))[0] == 200


def test_no_other_path_and_no_other_method(gang: Gang) -> None:
    namespace = gang.namespace.name
    code, answer = gang.operator.post(namespace, "demo", b"{}", token="x", path="/v1/elsewhere")
    assert (code, list(answer)) == (404, ["error"])
    code, answer = gang.operator.post(namespace, "demo", b"{}", token="x", method="PUT")
    assert (code, list(answer)) == (405, ["error"])


def test_nobody_is_answered_without_tls(operator: Operator) -> None:
    with socket.create_connection(("127.0.0.1", operator.report_port), timeout=5) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not connection.recv(100).startswith(b"HTTP")


def test_one_review_serves_many_reports(gang: Gang) -> None:
    token = gang.namespace.token(gang.pods[0])
    before = gang.operator.writes().get("post tokenreviews", 0)
    for sequence in range(10):
        gang.post(report(sequence=sequence), token=token)
    assert gang.operator.writes()["post tokenreviews"] == before + 1


def test_tokens_are_never_logged(gang: Gang) -> None:
    token = gang.namespace.token(gang.pods[0])
    assert gang.post(report(stage=Stage.TRAINING), token=token)[0] == 200
    assert gang.post(b"{", token=token)[0] == 422
    log = gang.operator.log.read_text()
    assert token not in log
    assert not re.search(r"ey[JI]\w+\.ey", log)


def test_answers_are_counted(gang: Gang) -> None:
    gang.post(b"{")
    assert re.search(r'finetune_reports_total\{code="422"\} [1-9]', gang.operator.get("/metrics")[1])
