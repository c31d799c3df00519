"""Which Report counts, and how often one is wanted."""

import asyncio
import re
from datetime import timedelta
from typing import Any, cast
from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request

from finetune_api import names
from finetune_api.openapi import report_endpoint
from finetune_operator.endpoint.receiver import Receiver, report_interval
from finetune_operator.endpoint.reports import Reports
from finetune_operator.kinds import Key
from finetune_operator.observation.observed import Received
from world import START, report

KEY = Key("team", "demo")


def received(sequence: int, job_uid: str = "gang-1", pod: str = "pod-0", minutes: int = 0) -> Received:
    return Received(report(sequence=sequence), job_uid, pod, START + timedelta(minutes=minutes))


def test_the_latest_sequence_wins() -> None:
    reports = Reports()
    assert reports.put(KEY, received(2))
    assert not reports.put(KEY, received(1))
    assert not reports.put(KEY, received(2))
    assert reports.put(KEY, received(3))
    newest = reports.newest(KEY, "gang-1")
    assert newest is not None
    assert newest.report.sequence == 3


def test_each_gang_counts_for_itself() -> None:
    reports = Reports()
    reports.put(KEY, received(9))
    assert reports.put(KEY, received(1, "gang-2"))
    first, second = reports.newest(KEY, "gang-1"), reports.newest(KEY, "gang-2")
    assert first is not None
    assert second is not None
    assert (first.report.sequence, second.report.sequence) == (9, 1)


def test_a_pod_in_the_place_of_another_one_counts_from_the_beginning() -> None:
    reports = Reports()
    reports.put(KEY, received(9))
    assert reports.put(KEY, received(1, pod="pod-1"))
    assert not reports.put(KEY, received(1, pod="pod-1"))
    newest = reports.newest(KEY, "gang-1")
    assert newest is not None
    assert (newest.pod, newest.report.sequence) == ("pod-1", 1)


def test_what_is_forgotten_is_gone() -> None:
    reports = Reports()
    reports.put(KEY, received(9))
    reports.forget(KEY)
    assert reports.newest(KEY, "gang-1") is None


def test_only_gangs_that_were_heard_of_lately_are_a_load() -> None:
    reports = Reports()
    reports.put(KEY, received(1))
    assert reports.active(START + timedelta(minutes=1)) == 1
    assert reports.active(START + timedelta(minutes=3)) == 0
    reports.put(KEY, received(2, minutes=3))
    assert reports.active(START + timedelta(minutes=4)) == 1


def test_gangs_are_counted_once_however_often_they_report_and_not_when_they_are_forgotten() -> None:
    reports = Reports()
    reports.put(KEY, received(1))
    for minutes in range(3):
        for number in range(100):
            reports.put(Key("team", f"{number}"), received(minutes, f"gang-{number}", minutes=minutes))
    assert reports.active(START + timedelta(minutes=2, seconds=30)) == 100
    for number in range(40):
        reports.forget(Key("team", f"{number}"))
    assert reports.active(START + timedelta(minutes=2, seconds=30)) == 60


def test_who_went_on_reporting_does_not_hide_who_fell_silent() -> None:
    reports = Reports()
    reports.put(KEY, received(1))
    reports.put(Key("team", "silent"), received(1))
    reports.put(KEY, received(2, minutes=2))
    assert reports.active(START + timedelta(minutes=3)) == 1


def test_a_clock_that_was_put_back_leaves_no_load_behind() -> None:
    reports = Reports()
    reports.put(KEY, received(1, minutes=1000))
    reports.put(Key("team", "other"), received(1))
    assert reports.active(START) == 1


def test_of_a_job_with_many_attempts_only_the_newest_are_kept() -> None:
    reports = Reports()
    for number in range(100):
        reports.put(KEY, received(1, f"gang-{number}"))
    assert [number for number in range(100) if reports.newest(KEY, f"gang-{number}")] == [98, 99]
    assert reports.active(START) == 2


@pytest.mark.parametrize(
    ("gangs", "depth", "seconds"), [(1, 0, 5), (100, 0, 5), (1000, 0, 50), (1, 50, 10), (10**6, 0, 300)]
)
def test_reports_are_wanted_less_often_when_there_are_many(gangs: int, depth: int, seconds: float) -> None:
    assert report_interval(gangs, depth) == seconds


@pytest.mark.parametrize("where", ["namespace", "name"])
@pytest.mark.parametrize(
    "text",
    [
        *("a", "7", "-", "a-b", "-a", "a-", "7a", "A", "é", "a.b", "a_b", "a\n", "{name}"),
        *("a" * length for length in (50, 51, 63, 64)),
        *("a" * (length - 1) + "-" for length in (50, 51, 63, 64)),
    ],
)
def test_there_is_a_path_for_the_names_of_the_document_and_for_no_others(where: str, text: str) -> None:
    document = report_endpoint()
    [path] = document["paths"]
    schemas = {part["name"]: part["schema"] for part in document["paths"][path]["parameters"]}
    allowed = schemas[where]
    fits = re.search(allowed["pattern"].removesuffix("$") + r"\Z", text) is not None
    named = {"namespace": "team", "name": "demo", where: quote(text)}
    nothing = cast(Any, None)
    router = Receiver(nothing, nothing, nothing, nothing, nothing).application().router
    request = make_mocked_request("POST", names.report_path(**named))
    found = asyncio.run(router.resolve(request))
    assert (found.http_exception is None) == (fits and len(text) <= allowed.get("maxLength", 63))
