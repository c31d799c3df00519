"""Reports of any kind: what cannot be used is refused, and what is taken becomes a status that can be written."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api import names
from finetune_api.crd import structural_schema
from finetune_api.report import Report
from finetune_api.status import FineTuneJobStatus, Output
from finetune_operator import validation
from finetune_operator.observation import reading
from finetune_operator.page import overview
from finetune_operator.page.job import job as page
from oddities import reports
from world import ADAPTER, INLINE, MERGES, OUTPUT, PLAN, PUBLISH, World, checkpoint, report, stored

Wire = dict[str, Any]

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}


def standard(schema: Wire) -> Wire:
    """A structural schema in the words of JSON Schema; integers have to fit into 64 bits."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "nullable"}
    made |= INT64 if schema.get("type") == "integer" else {}
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if made.get(exclusive) is True:
            made[exclusive] = made.pop(bound)
    if "properties" in schema:
        made["properties"] = {name: standard(child) for name, child in schema["properties"].items()}
        made["additionalProperties"] = False
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            made[part] = standard(schema[part])
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made


STATUS_SCHEMA = structural_schema(FineTuneJobStatus)
STATUS = jsonschema_rs.Draft202012Validator(standard(STATUS_SCHEMA), validate_formats=True)


def named_twice(value: Any, schema: Wire, path: str = "status") -> Iterator[str]:
    """Lists in which two items have the names by which the API server tells items apart."""
    if isinstance(value, list):
        if keys := schema.get("x-kubernetes-list-map-keys"):
            known = [tuple(item.get(key) for key in keys) for item in value]
            if len(set(known)) < len(known):
                yield path
        for item in value:
            yield from named_twice(item, schema["items"], path)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from named_twice(part, schema.get("properties", {}).get(name, {}), f"{path}.{name}")


def holds_nothing(value: Any, path: str = "status") -> Iterator[str]:
    """Objects without a field: where there was one before, server-side apply makes null of them, and refuses that."""
    if value == {}:
        yield path
    for name, part in value.items() if isinstance(value, dict) else ():
        yield from holds_nothing(part, f"{path}.{name}")


def check_writable(world: World) -> None:
    """The API server takes the status, and the next turn can read it."""
    wire = world.status.to_wire()
    STATUS.validate(json.loads(json.dumps(wire, allow_nan=False)))
    assert list(named_twice(wire, STATUS_SCHEMA)) == []
    assert list(holds_nothing(wire)) == []
    assert world.subject.status == world.status
    found = stored(world.status, **world.spec)
    found["metadata"]["creationTimestamp"] = "2026-01-01T11:00:00Z"
    reading.subject(found)
    page(found, [])
    overview.row(found)


def training(**spec: Any) -> World:
    """A job whose gang trains."""
    world = World(spec={"dataset": INLINE, **spec})
    world.settle()
    world.run_pods()
    return world


def trained(output: Output, **spec: Any) -> World:
    """A job whose training is over, and in which the pod of the step that follows runs."""
    world = training(**spec)
    world.succeed(report(1, 1, step=36, output=output))
    world.settle()
    world.run_pods()
    return world


def preparing() -> World:
    """A job whose data are being prepared."""
    world = World()
    world.settle()
    world.run_pods()
    return world


CHECKPOINT = checkpoint(1).to_wire()
SCORE = {"name": "validation", "tokens": 1}
EVALUATED = {"step": 1, "time": "2026-01-01T12:00:00Z", "sets": [SCORE]}
INPUT = {"name": "model", "origin": "hub", "digest": "d", "bytes": 1}
DATA = {"name": "validation", "samples": 1, "lossTokens": 1}
CHOICE = {"field": "spec.seed", "value": 1, "reason": "r"}
NO_ZONE = {"time": "2026-01-01T12:00:00"}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"checkpoints": [CHECKPOINT | NO_ZONE]}, "checkpoints[0].time: .*timezone"),
        ({"evaluation": {"latest": EVALUATED | NO_ZONE}}, "evaluation.latest.time: .*timezone"),
        ({"published": {"target": "s3://a", "bytes": 1} | NO_ZONE}, "published.time: .*timezone"),
        ({"inputs": [INPUT, INPUT]}, "inputs: must not have two items with name 'model'"),
        ({"evaluationData": [DATA, DATA]}, "evaluationData: must not have two items with name 'validation'"),
        (
            {"evaluation": {"latest": EVALUATED | {"sets": [SCORE, SCORE]}}},
            "evaluation.latest.sets: must not",
        ),
        ({"plan": PLAN.to_wire() | {"chosen": [CHOICE, CHOICE]}}, "plan.chosen: must not"),
    ],
)
def test_what_a_status_cannot_hold_is_refused(told: Wire, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Report.from_json(json.dumps(json.loads(report().to_json()) | told))
    [problem] = validation.problems(refused.value, Report)
    assert re.match(words.replace("[", r"\["), problem), problem


def is_posted(world: World, told: Report) -> None:
    world.post(told)


def is_left_by_a_failure(world: World, told: Report) -> None:
    world.fail_pod(0, 1, last_report=told)


def is_left_by_a_success(world: World, told: Report) -> None:
    world.succeed(told)


SCENES: list[tuple[Callable[[], World], int, Callable[[World, Report], None]]] = [
    (training, 1, is_posted),
    (training, 1, is_left_by_a_failure),
    (training, 1, is_left_by_a_success),
    (lambda: training(**MERGES), 1, is_left_by_a_success),
    (lambda: training(**PUBLISH), 1, is_left_by_a_success),
    (lambda: trained(ADAPTER, **MERGES), names.MERGING, is_posted),
    (lambda: trained(ADAPTER, **MERGES), names.MERGING, is_left_by_a_success),
    (lambda: trained(OUTPUT, **PUBLISH), names.PUBLISHING, is_posted),
    (lambda: trained(OUTPUT, **PUBLISH), names.PUBLISHING, is_left_by_a_success),
    (preparing, names.PREPARATION, is_posted),
    (preparing, names.PREPARATION, is_left_by_a_success),
]


@settings(SETTINGS, max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")))
def test_whatever_comes_is_a_report_or_refused(body: bytes) -> None:
    for text in (body, b'{"attempt":1,"sequence":1,"stage":"Training","metrics":' + body + b"}"):
        try:
            found = Report.from_json(text)
        except ValueError:
            continue
        assert Report.from_json(found.to_json()) == found


@settings(SETTINGS, max_examples=200)
@given(wire=reports(), scene=st.sampled_from(SCENES), again=st.booleans())
def test_what_is_taken_becomes_a_status_that_can_be_written(
    wire: Wire, scene: tuple[Callable[[], World], int, Callable[[World, Report], None]], again: bool
) -> None:
    begin, attempt, arrives = scene
    try:
        told = Report.from_json(json.dumps(wire | {"attempt": attempt}))
    except ValueError:
        return
    assert Report.from_json(told.to_json()) == told
    last = Report.from_json(told.to_termination_message())
    world = begin()
    assert world.current is not None
    assert world.current.attempt == attempt
    if again:
        world.post(last)
        world.turn()
    arrives(world, told if arrives is is_posted else last)
    for _ in range(6):
        world.turn()
        check_writable(world)
        # How something ended, pods and Jobs tell.
        phase = world.status.phase
        assert arrives is not is_posted or attempt == names.PUBLISHING or not (phase and phase.is_terminal)
        world.collect()
        world.now += timedelta(seconds=30)
