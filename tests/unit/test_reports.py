"""Which Report counts, and how often one is wanted."""

from datetime import timedelta

import pytest

from finetune_operator.kinds import Key
from finetune_operator.observed import Received
from finetune_operator.receiver import report_interval
from finetune_operator.reports import Reports
from world import START, report

KEY = Key("team", "demo")


def received(sequence: int, job_uid: str = "gang-1", pod: str = "pod-0") -> Received:
    return Received(report(sequence=sequence), job_uid, pod, START)


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


@pytest.mark.parametrize(
    ("gangs", "depth", "seconds"), [(1, 0, 5), (100, 0, 5), (1000, 0, 50), (1, 50, 10), (10**6, 0, 300)]
)
def test_reports_are_wanted_less_often_when_there_are_many(gangs: int, depth: int, seconds: float) -> None:
    assert report_interval(gangs, depth) == seconds
