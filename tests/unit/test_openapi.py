"""The OpenAPI document of the report endpoint beside what trainers really send, and what the models take."""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from schemathesis import Case

from certificates import write_certificate
from finetune_api import names
from finetune_api.curve import MAX_POINTS, Curve
from finetune_api.inputs import Input
from finetune_api.openapi import report_endpoint
from finetune_api.report import MAX_REPORT_BYTES, Failure, Metrics, Report, ReportReply, Stage, StepSeconds
from finetune_api.scores import Evaluated, SetScore, status_of
from finetune_api.status import Choice, EvaluationData
from finetune_operator import validation
from finetune_trainer.reports.post import Poster
from report_cases import CASES, body_of
from world import DATASET, OUTPUT, PLAN, START, SUBSPACES, TRANSFER, checkpoint, published, report

DOCUMENT = report_endpoint()
[(PATH, OPERATIONS)] = DOCUMENT["paths"].items()
POST = OPERATIONS["post"]
# What tells whether something is what the document calls by that name.
VALID = {
    name: jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}, validate_formats=True
    )
    for name in ("Report", "ReportReply")
}
COUNTED = [float(step) for step in range(1, MAX_POINTS + 1)]
EVALUATIONS = [
    Evaluated(
        step=step, time=START, sets=[SetScore.of("validation", loss_sum=float("inf"), correct=1, tokens=9)]
    )
    for step in (0, 6)
]
FULL = report(
    3,
    10**6,
    resumed_from_step=6,
    metrics=Metrics(step=7, loss=float("nan"), seconds=StepSeconds(data=0.1), peak_memory=10**12),
    initial_loss=3,
    seconds_remaining=1.5e300,
    curve=Curve(
        steps=[int(step) for step in COUNTED],
        loss=[None, *COUNTED[1:]],
        learning_rate=COUNTED,
        tokens_per_second=COUNTED,
    ),
    plan=PLAN.model_copy(update={"chosen": [Choice(field="spec.seed", value=2, reason="é" * 512)]}),
    dataset=DATASET,
    inputs=[Input(name="model", origin="hub", digest="sha256:d", bytes=1)],
    evaluation_data=[EvaluationData(name="validation", samples=1, loss_tokens=1)],
    evaluation=status_of(EVALUATIONS, final_step=6),
    subspaces=SUBSPACES,
    checkpoints=[checkpoint(6, "resume"), checkpoint(6)],
    output=OUTPUT,
)
BEYOND_SCHEMAS = "must not have two items|one number for each of"
SENT = {
    "full": FULL,
    "first": Report(attempt=1, sequence=0, stage=Stage.STARTING),
    "transfer": report(0, 3, None, stage=Stage.DOWNLOADING, transfer=TRANSFER, plan=None),
    "published": published(revision="abc"),
    "failed": FULL.model_copy(
        update={
            "stage": Stage.FAILED,
            "failure": Failure.of(65, "\udcff" * 2000, ["x" * 300, "\x00"], log="l\n" * 1000),
        }
    ),
}


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@contextmanager
def endpoint(directory: Path, requests: list[Request]) -> Iterator[str]:
    """Somewhere to post to, where all that comes is kept; the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(Request(self.command, self.path, dict(self.headers.items()), body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ReportReply(next_report_seconds=0.1).model_dump_json(by_alias=True).encode())

        def log_message(self, *_: object) -> None:
            pass

    write_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}{names.report_path('team', 'demo')}"
        server.shutdown()
        thread.join()


def sent(directory: Path, body: str) -> Request:
    """The request by which a trainer posts a Report."""
    requests: list[Request] = []
    (directory / "token").write_text("a.b.c\n")
    with endpoint(directory / "tls", requests) as url:
        poster = Poster(url, ca=directory / "tls" / "ca.crt", token=directory / "token")
        poster.offer(body, urgent=True)
        poster.close()
    [request] = requests
    return request


@pytest.mark.parametrize("told", SENT.values(), ids=SENT)
def test_what_a_trainer_sends_is_what_the_document_says(told: Report, tmp_path: Path) -> None:
    request = sent(tmp_path, told.to_json())
    assert request.method.lower() in OPERATIONS
    assert request.path == PATH.format(namespace="team", name="demo")
    assert request.headers["Content-Type"] in POST["requestBody"]["content"]
    assert "Content-Encoding" not in request.headers
    [security] = POST["security"]
    [scheme] = [DOCUMENT["components"]["securitySchemes"][name] for name in security]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert request.headers["Authorization"] == "Bearer a.b.c"
    assert len(request.body) <= MAX_REPORT_BYTES
    VALID["Report"].validate(json.loads(request.body))


@pytest.mark.parametrize("told", SENT.values(), ids=SENT)
def test_so_is_what_it_leaves_as_its_termination_message(told: Report) -> None:
    VALID["Report"].validate(json.loads(told.to_termination_message()))


def test_the_reply_is_what_the_document_says() -> None:
    VALID["ReportReply"].validate(ReportReply(next_report_seconds=5).to_wire())


def test_a_reader_of_openapi_understands_the_document() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=st.one_of(*CASES.values()))
def test_what_is_taken_is_what_the_document_allows(case: Case[Any]) -> None:
    """But for what no schema says: lists that belong together, items of one name."""
    body = body_of(case)
    if isinstance(body, bytes):
        return
    faults = [error.schema_path[-1] for error in VALID["Report"].iter_errors(body)]
    try:
        Report.from_json(json.dumps(body))
    except ValidationError as error:
        problems = validation.problems(error, Report)
        assert faults or all(re.search(BEYOND_SCHEMAS, problem) for problem in problems), problems
    else:
        # Texts that are too long are cut.
        assert set(faults) <= {"maxLength"}
