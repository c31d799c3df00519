"""Which versions of FineTuneJobs are worth a look, and which need not be read."""

from typing import Any

import pytest

from finetune_operator.kinds import Key
from finetune_operator.known import Known

KEY = Key("team", "demo")
BEGUN = {"phase": "Running", "startTime": "2026-01-01T12:00:00Z"}


def job(version: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
    wire = {"metadata": {"resourceVersion": version}}
    return wire if status is None else wire | {"status": status}


def test_an_own_write_does_not_matter_once() -> None:
    known = Known()
    known.written(KEY, "7")
    assert not known.matters(KEY, job("7", BEGUN))
    # What is heard again later may bring more.
    assert known.matters(KEY, job("7", BEGUN))


def test_what_somebody_else_wrote_matters() -> None:
    known = Known()
    known.written(KEY, "7")
    assert known.matters(KEY, job("8", BEGUN))
    assert not known.is_at_rest(KEY, "8")


@pytest.mark.parametrize("status", [None, {}, {"phase": "Suspended"}, {"phase": "Failed", "conditions": []}])
def test_a_job_that_has_not_begun_need_not_be_read_once(status: dict[str, Any] | None) -> None:
    known, wire = Known(), job("7", status)
    assert known.matters(KEY, wire)
    assert known.take_new(KEY) is wire
    assert known.take_new(KEY) is None


@pytest.mark.parametrize(("wire", "deleted"), [(job("8", BEGUN), False), (job("8"), True)])
def test_what_has_begun_or_is_deleted_has_to_be_read(wire: dict[str, Any], deleted: bool) -> None:
    known = Known()
    assert known.matters(KEY, job("7"))
    assert known.matters(KEY, wire, deleted=deleted)
    assert known.take_new(KEY) is None


def test_rest_is_of_one_version() -> None:
    known = Known()
    known.rests(KEY, "7")
    assert known.is_at_rest(KEY, "7")
    assert not known.is_at_rest(KEY, "8")
    assert not known.is_at_rest(Key("team", "other"), "7")


def test_who_rests_for_good_does_so_until_somebody_changes_the_job() -> None:
    known = Known()
    known.rests(KEY, "7")
    assert not known.is_settled(KEY)
    known.rests(KEY, "7", for_good=True)
    assert known.is_settled(KEY)
    known.written(KEY, "8")
    assert not known.matters(KEY, job("8", BEGUN))
    assert known.is_settled(KEY)
    assert known.matters(KEY, job("9", BEGUN))
    assert not known.is_settled(KEY)


def test_who_rests_for_good_is_brought_by_a_new_watch_in_vain() -> None:
    known = Known()
    known.rests(KEY, "7")
    assert known.matters(KEY, job("7", BEGUN)), "it may be time for something"
    known.looks(KEY)
    known.rests(KEY, "7", for_good=True)
    for _ in range(2):
        assert not known.matters(KEY, job("7", BEGUN))
    known.calls(KEY)
    assert known.matters(KEY, job("7", BEGUN)), "somebody wants it looked at"
    known.looks(KEY)
    known.rests(KEY, "7", for_good=True)
    assert known.matters(KEY, job("7", BEGUN), deleted=True)


def test_a_look_that_came_to_nothing_leaves_nobody_settled() -> None:
    known = Known()
    known.rests(KEY, "7", for_good=True)
    known.calls(KEY)
    known.looks(KEY)
    # The API server was away, say: it is tried again.
    assert not known.is_settled(KEY)


def test_who_stirs_does_not_rest() -> None:
    known = Known()
    known.rests(KEY, "7", for_good=True)
    known.stirs(KEY)
    assert not known.is_at_rest(KEY, "7")
    assert not known.is_settled(KEY)


def test_nothing_is_known_of_a_job_that_is_gone() -> None:
    known = Known()
    known.written(KEY, "7")
    assert known.matters(KEY, job("6"))
    known.rests(KEY, "7", for_good=True)
    known.written(KEY, "7")
    known.forget(KEY)
    assert not known.is_at_rest(KEY, "7")
    assert not known.is_settled(KEY)
    assert known.take_new(KEY) is None
    assert known.matters(KEY, job("7", BEGUN))
