"""What the operator's page shows, as views of FineTuneJobs."""

import asyncio
import json
from typing import Any

import pytest

from finetune_api.curve import Curve
from finetune_api.defaults import Defaults
from finetune_api.status import FineTuneJobStatus
from finetune_operator.page.job import MAX_EVENTS, job
from finetune_operator.page.overview import MAX_ROWS, Row, overview, row
from finetune_operator.page.shared import SECONDS, SHARE, Shared
from finetune_operator.status.progress import with_report
from world import DATASET, PLAN, START, checkpoint, manifest, report

CURVE = Curve(steps=[1, 2], loss=[3.0, None], learning_rate=[1e-6, 2e-6], tokens_per_second=[None, None])


def wire(status: FineTuneJobStatus | None = None, name: str = "demo", **spec: Any) -> dict[str, Any]:
    """A FineTuneJob as the API server has it."""
    found = manifest(name, **spec)
    found["metadata"] |= {
        "namespace": "team",
        "uid": "uid-1",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T11:59:00Z",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    return found | ({} if status is None else {"status": status.to_wire()})


def trained(**fields: Any) -> FineTuneJobStatus:
    return with_report(FineTuneJobStatus(plan=PLAN, dataset=DATASET), report(step=18, **fields), START)


def event(name: str, second: int, uid: str = "uid-1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T12:00:00Z"},
        "involvedObject": {"uid": uid},
        "lastTimestamp": f"2026-01-01T12:00:{second:02}Z",
        "type": "Normal",
        "reason": name,
        "message": "m",
    }


def test_a_row_has_what_kubectl_prints_and_how_the_loss_went() -> None:
    found = row(wire(trained(curve=CURVE)))
    assert found.view | {"message": "", "model": ""} == {
        "namespace": "team",
        "name": "demo",
        "created": "2026-01-01T11:59:00Z",
        "method": "sft",
        "model": "",
        "phase": "",
        "message": "",
        "percent": 50,
        "progress": "18/36 (50%)",
        "loss": "1.82",
        "validation": "–",
        "tokensPerSecond": "–",
        "remaining": "–",
        "restarts": "0",
        "curve": [3.0, None],
    }


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ({"volume": {"claimName": "models", "path": "tiny"}}, "tiny"),
        ({"huggingFace": {"repo": "Qwen/Qwen3-8B"}}, "Qwen/Qwen3-8B"),
        ({"image": {"reference": "registry.example/model@sha256:00"}}, "registry.example/model"),
    ],
)
def test_a_job_that_nobody_has_looked_at_has_a_row(source: dict[str, Any], label: str) -> None:
    found = row(wire(model=source)).view
    assert (found["model"], found["phase"], found["curve"]) == (label, "", [])


def rows(*jobs: tuple[str, str, bool, int]) -> list[Row]:
    return [
        Row(namespace, over, f"2026-01-01T12:{minute:02}:00Z", {"name": name})
        for namespace, name, over, minute in jobs
    ]


def test_what_goes_on_stands_first_and_then_what_is_newest() -> None:
    found = rows(
        ("a", "old", False, 1), ("b", "over", True, 9), ("a", "new", False, 2), ("a", "done", True, 3)
    )
    shown = overview(found, None)
    assert [each["name"] for each in shown["jobs"]] == ["new", "old", "over", "done"]
    assert shown["namespaces"] == ["a", "b"]
    only = overview(found, "a")
    assert [each["name"] for each in only["jobs"]] == ["new", "old", "done"]
    assert only["namespaces"] == ["a", "b"], "to choose another one"


def test_a_list_that_nobody_would_read_to_its_end_is_cut_and_says_so() -> None:
    found = rows(*(("a", f"job-{n}", True, 1) for n in range(MAX_ROWS + 3)))
    shown = overview(found, None)
    assert (len(shown["jobs"]), shown["more"]) == (MAX_ROWS, 3)


def test_a_job_shows_everything_that_its_status_tells() -> None:
    status = trained(curve=CURVE, checkpoints=[checkpoint(9), checkpoint(18)])
    shown = job(wire(status), [])
    assert shown["progress"]["summary"] == "18/36 (50%)"
    # What has no number is not drawn.
    assert [chart["title"] for chart in shown["charts"]] == ["Loss", "Learning rate"]
    [line] = shown["charts"][0]["lines"]
    assert (line["name"], line["points"], shown["charts"][0]["lastStep"]) == (
        "training",
        [(1, 3.0), (2, None)],
        36,
    )
    assert [each["step"] for each in shown["checkpoints"]] == ["18", "9"]
    settings = {each["name"]: (each["value"], each["reason"]) for each in shown["plan"]["settings"]}
    assert settings["learningRate"] == ("5e-6", "as the spec says")
    assert {"label": "Hardware", "value": "2 pods without GPU"} in shown["facts"]
    assert {"label": "Samples", "value": "100"} in shown["dataset"]
    assert "annotations" not in json.dumps(shown)


@pytest.mark.parametrize(
    ("defaults", "shown"),
    [(None, None), (Defaults(storage_claim_name="runs-of-all"), '"x" on claim "runs-of-all"')],
)
def test_the_claim_is_the_one_that_an_administrator_has_filled_in(
    defaults: Defaults | None, shown: str | None
) -> None:
    found = job(wire(FineTuneJobStatus(defaults=defaults), storage={"path": "x"}), ())
    assert {fact["label"]: fact.get("value") for fact in found["facts"]}.get("Storage") == shown


def test_a_job_that_nobody_has_looked_at_is_shown_too() -> None:
    shown = job(wire(), [])
    assert (shown["phase"], shown["charts"], shown["plan"]) == ("", [], None)
    assert shown["message"] == "Nobody has looked at the job yet."


def test_a_spec_that_is_not_valid_is_shown_as_it_is() -> None:
    shown = job(wire(method="magic"), [])
    assert (shown["facts"], shown["spec"]["method"]) == ([], "magic")


def test_events_are_this_job_s_own_and_the_newest_stand_first() -> None:
    made = [event(f"e{n:03}", second=n % 60) for n in range(3)] + [event("a-namesake-s", 59, uid="uid-0")]
    assert [each["reason"] for each in job(wire(), made)["events"]] == ["e002", "e001", "e000"]
    many = [event(f"e{n:03}", second=0) for n in range(MAX_EVENTS + 1)]
    shown = job(wire(), many)["events"]
    assert (len(shown), shown[0]["reason"]) == (MAX_EVENTS, f"e{MAX_EVENTS:03}")


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_many_who_ask_at_once_are_answered_together() -> None:
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return asked

    clock = Clock()
    shared = Shared(ask, clock)
    assert await asyncio.gather(*(shared.get() for _ in range(50))) == [1] * 50
    clock.now = SECONDS - 0.1
    assert await shared.get() == 1
    clock.now = SECONDS
    assert await shared.get() == 2


async def test_what_takes_long_is_asked_rarely() -> None:
    clock = Clock()

    async def ask() -> float:
        clock.now += 3
        return clock.now

    shared = Shared(ask, clock)
    assert await shared.get() == 3
    clock.now = 3 + 3 / SHARE - 0.1
    assert await shared.get() == 3
    clock.now += 0.2
    assert await shared.get() > 3


async def test_a_failure_is_an_answer_too_until_it_is_old() -> None:
    clock = Clock()
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise TimeoutError
        return "well again"

    shared = Shared(ask, clock)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await shared.get()
    clock.now = SECONDS
    assert await shared.get() == "well again"
