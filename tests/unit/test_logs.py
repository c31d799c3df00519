"""Logs as JSON lines."""

import asyncio
import json
import logging
from contextvars import copy_context

import pytest

from finetune_operator.monitoring import logs


def line(message: str = "a word", **record: object) -> dict[str, object]:
    """What a record becomes."""
    made = logging.LogRecord("finetune_operator.test", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(record)
    found: dict[str, object] = json.loads(logs.JsonFormatter().format(made))
    return found


def test_a_line_that_is_about_nothing() -> None:
    told = copy_context().run(line)
    assert {field: told[field] for field in ("level", "logger", "message")} == {
        "level": "warning",
        "logger": "finetune_operator.test",
        "message": "a word",
    }
    assert not set(logs.FIELDS) & set(told)


def test_what_a_task_is_about_is_in_all_that_it_logs() -> None:
    def task() -> dict[str, object]:
        logs.about("team", "demo")
        logs.more_about(attempt=2)
        return line(event="Restarting")

    told = copy_context().run(task)
    assert {field: told[field] for field in logs.FIELDS if field in told} == {
        "namespace": "team",
        "job": "demo",
        "attempt": 2,
        "event": "Restarting",
    }


def test_the_next_job_of_a_worker_does_not_inherit_the_attempt_of_the_one_before() -> None:
    def task() -> dict[str, object]:
        logs.about("team", "demo")
        logs.more_about(attempt=2, pod="demo-2-0")
        logs.about("team", "other")
        return line()

    told = copy_context().run(task)
    assert told["job"] == "other"
    assert not {"attempt", "pod"} & set(told)


async def test_tasks_do_not_mix_up_what_they_are_about() -> None:
    async def task(name: str) -> object:
        logs.about("team", name)
        await asyncio.sleep(0)
        return line()["job"]

    assert list(await asyncio.gather(task("one"), task("two"))) == ["one", "two"]


@pytest.mark.parametrize(("kind", "field"), [("FineTuneJob", "job"), ("Pod", "pod"), ("Job", None)])
def test_what_kopf_says_of_an_object(kind: str, field: str | None) -> None:
    told = copy_context().run(line, k8s_ref={"kind": kind, "namespace": "team", "name": "demo"})
    expected = {"namespace": "team", field: "demo"} if field else {}
    assert {key: told[key] for key in logs.FIELDS if key in told} == expected


def test_a_traceback_is_one_field() -> None:
    try:
        raise ValueError("a bug")
    except ValueError as error:
        told = line(exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: a bug" in str(told["error"])
