"""The report endpoint under requests that schemathesis makes up from its OpenAPI document, right and wrong ones.

FUZZ_EXAMPLES is how many there are (150 if not set), the same ones every time.
"""

import base64
import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cluster.kube import FINETUNEJOBS, Kube, Namespace, Wire, eventually
from cluster.operators import Operator
from finetune_api.report import MAX_REPORT_BYTES, Report
from finetune_operator.observation import reading
from oddities import reports
from report_cases import CASES, POST, body_of
from world import INLINE, World, checkpoint, report

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    phases=(Phase.generate,),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_headers_conformance, response_schema_conformance),
]


def forged(claims: bytes) -> str:
    """A token that nobody has signed."""
    payload = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    return f"Bearer e30.{payload}.e30"


# Each gang reports only so often. There are more of them, so that nobody has to wait long.
GANGS = 6
REFUSED = "refused"
GOOD = report().to_json().encode()
# Requests that differ in one thing from one that is taken, and what they are answered.
METHODS = dict.fromkeys(("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"), 405) | {"FOO": 400}
HEADERS: list[tuple[dict[str, str], int]] = [
    ({"Content-Encoding": "gzip"}, 415),
    ({"Content-Encoding": "\xff"}, 415),
    ({"Content-Type": "text/html; charset=utf-16"}, 200),
    ({"Content-Type": "\xff"}, 200),
    ({"Accept": "text/html"}, 200),
    ({"Expect": "the impossible"}, 417),
    ({"X-Long": "x" * 20_000}, 400),
    ({f"X-{number}": "1" for number in range(200)}, 400),
]
BODIES = [
    (b"", 422),
    (b"[" * 30_000, 422),
    (b'{"a":' * 10_000, 422),
    (GOOD.replace(b"{", b'{"output":{"path":"\\ud800","format":"model","bytes":1},', 1), 422),
    (GOOD.replace(b'"sequence":1', b'"sequence":' + b"9" * 5000), 422),
    (GOOD.decode().encode("utf-16"), 422),
    (b"\xef\xbb\xbf" + GOOD, 422),
    (GOOD.replace(b'"attempt":1', b'"attempt":2'), 403),
    (GOOD + b" " * MAX_REPORT_BYTES, 413),
]
TOKENS = [
    *(None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", "bearer\ta", "Bearer \xff.\xff.\xff"),
    *("Bearer " + "a" * 6000, forged(b'{"aud":"finetune.dev","exp":1e999}'), forged(b'{"a":' * 500)),
]


@dataclass(frozen=True)
class Endpoint:
    """The endpoint, and who may report to it."""

    namespace: Namespace
    operator: Operator
    tokens: dict[str, str]
    """Of rank 0 of the gang of each job."""
    strangers: tuple[str, ...]
    """Tokens of others, which the API server knows."""
    session: requests.Session

    def ask(
        self, case: Case[Any], body: bytes, headers: dict[str, str], method: str = "POST"
    ) -> requests.Response:
        """Send a request, as often as it is asked to come again, and hold every answer against the document."""
        sent = case.as_transport_kwargs(base_url=f"https://127.0.0.1:{self.operator.report_port}")
        sent |= {"method": method, "data": body, "headers": {"Content-Type": "application/json"} | headers}
        sent.pop("json", None)
        for _ in range(30):
            response = self.session.request(**sent, timeout=20)
            case.validate_response(response, checks=CHECKS)
            if response.status_code != 429:
                return response
            time.sleep(int(response.headers["Retry-After"]))
        raise AssertionError(f"still asked to wait: {response.text}")

    def post(self, job: str, told: Report) -> int:
        """The status of the answer to a Report of its gang."""
        return self.operator.post(self.namespace.name, job, told, token=self.tokens[job])[0]

    @property
    def jobs(self) -> list[str]:
        """Those that may be fuzzed."""
        return sorted(self.tokens.keys() - {REFUSED})

    def version(self, job: str) -> str:
        """Changes with every write to the job."""
        found: str = self.namespace.job(job)["metadata"]["resourceVersion"]
        return found


@pytest.fixture(scope="module")
def endpoint(lonely: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    operator = Operator(lonely.kubeconfig, tmp_path_factory.mktemp("fuzzed"))
    operator.start()
    jobs = [f"fuzzed-{number}" for number in range(GANGS)]
    with lonely.namespace() as namespace, requests.Session() as session:
        session.trust_env, session.verify = False, str(operator.directory / "tls" / "ca.crt")
        for job in (*jobs, REFUSED):
            namespace.submit(job, dataset=INLINE)
        tokens = {}
        for job in (*jobs, REFUSED):
            pods = namespace.pods(job)
            namespace.run_pods(pods)
            tokens[job] = namespace.token(pods[0])
            assert operator.post(namespace.name, job, report(), token=tokens[job])[0] == 200
        for job in tokens:
            namespace.in_phase("Running", job)
        strangers = (
            namespace.token(pods[0], bound=False),
            namespace.token(pods[0], audience="https://kubernetes.default.svc"),
            tokens[jobs[0]][:-8] + "AAAAAAAA",
        )
        yield Endpoint(namespace, operator, tokens, strangers, session)
    assert operator.stop() == 0, operator.log.read_text()


def about(case: Case[Any], namespace: Namespace, job: str) -> Case[Any]:
    """The case as one of a job that there is."""
    case.path_parameters = {"namespace": namespace.name, "name": job}
    return case


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Case[Any], bytes]:
    """A case of the document, and its body; that of many is of the gang's own attempt."""
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    case = draw(CASES[mode])
    body = body_of(case)
    if isinstance(body, bytes):
        return case, body
    if isinstance(body, dict) and isinstance(body.get("attempt"), int):
        body["attempt"] = draw(st.sampled_from([1, 1, body["attempt"]]))
    return case, json.dumps(body).encode()


def sequenced(body: bytes, sequence: int) -> bytes:
    """The same Report as the newest one of its pod, if it is one."""
    try:
        told = Report.from_json(body)
    except ValueError:
        return body
    return told.model_copy(update={"sequence": sequence}).to_json().encode()


def expected(body: bytes) -> int:
    """What a gang's own pod is answered, in its first attempt."""
    if len(body) > MAX_REPORT_BYTES:
        return 413
    try:
        return 200 if Report.from_json(body).attempt == 1 else 403
    except ValueError:
        return 422


def check_log(endpoint: Endpoint) -> None:
    """The operator has met nothing that it did not expect, and keeps secrets."""
    log = endpoint.operator.log.read_text()
    assert not re.search("Traceback|reconciling failed", log), log[-5000:]
    assert not any(token in log for token in (*endpoint.tokens.values(), *endpoint.strangers))


def check_jobs(endpoint: Endpoint) -> None:
    """Every gang can go on reporting, and that is shown."""
    good = report(1, 2**63 - 1, step=12, checkpoints=[checkpoint(12)])

    def shown(job: str) -> bool:
        return bool(endpoint.namespace.in_phase("Running", job)["progress"]["summary"] == "12/36 (33%)")

    for job in endpoint.jobs:
        eventually(lambda job=job: endpoint.post(job, good) == 200)  # type: ignore[misc]
    for job in endpoint.jobs:
        eventually(lambda job=job: shown(job))  # type: ignore[misc]


def test_every_answer_is_one_of_the_document_and_no_request_harms_a_job(endpoint: Endpoint) -> None:
    before = endpoint.version(REFUSED)
    jobs, numbers = itertools.cycle(endpoint.jobs), itertools.count(2)
    answers: Counter[int] = Counter()

    @SETTINGS
    @given(found=bodies(), own=st.integers(0, 2), data=st.data())
    def fuzz(found: tuple[Case[Any], bytes], own: int, data: st.DataObject) -> None:
        case, body = found
        if own:
            job = next(jobs)
            body = sequenced(body, next(numbers))
            authorization = {"Authorization": f"Bearer {endpoint.tokens[job]}"}
            response = endpoint.ask(about(case, endpoint.namespace, job), body, authorization)
            assert response.status_code == expected(body), (body[:300], response.text)
        else:
            if data.draw(st.booleans()):
                about(case, endpoint.namespace, REFUSED)
            bearers = [
                f"Bearer {token}" for token in (*endpoint.strangers, endpoint.tokens[endpoint.jobs[0]])
            ]
            who = data.draw(st.sampled_from([*TOKENS, *bearers]))
            response = endpoint.ask(case, body, {} if who is None else {"Authorization": who})
            assert response.status_code in (401, 403, 404), response.text
        answers[response.status_code] += 1

    fuzz()
    assert {200, 401, 403, 422} <= answers.keys(), answers
    check_jobs(endpoint)
    check_log(endpoint)
    assert endpoint.version(REFUSED) == before


def test_what_is_odd_about_a_request_is_told_and_nothing_comes_of_it(endpoint: Endpoint) -> None:
    case = about(POST.Case(), endpoint.namespace, REFUSED)
    before = endpoint.version(REFUSED)
    authorization = {"Authorization": f"Bearer {endpoint.tokens[REFUSED]}"}
    for method, code in METHODS.items():
        assert endpoint.ask(case, GOOD, authorization, method).status_code == code, method
    for headers, code in HEADERS:
        assert endpoint.ask(case, GOOD, headers | authorization).status_code == code, headers
    for body, code in BODIES:
        assert endpoint.ask(case, body, authorization).status_code == code, body[:100]
    check_log(endpoint)
    assert endpoint.version(REFUSED) == before


@settings(SETTINGS, max_examples=max(1, EXAMPLES // 5))
@given(wire=reports())
def test_the_api_server_takes_the_status_of_whatever_is_taken(endpoint: Endpoint, wire: Wire) -> None:
    told = Report.from_json(json.dumps(wire | {"attempt": 1}))
    world = World(spec={"dataset": INLINE})
    world.settle()
    world.run_pods()
    world.post(told)
    world.turn()
    path = endpoint.namespace.path(FINETUNEJOBS, REFUSED) + "/status"
    status = {"status": world.status.to_wire()}
    kube = endpoint.namespace.kube
    stored = kube.request(
        "PATCH", path, status, "application/merge-patch+json", dryRun="All", fieldValidation="Strict"
    )
    reading.subject(stored)
