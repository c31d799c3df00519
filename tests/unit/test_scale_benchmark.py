"""How the benchmark of many jobs makes numbers of what it measured."""

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.operator.figures import percentile
from benchmarks.scale import jobs, scrape
from benchmarks.scale.course import Point, Reporting, Result, Storm
from benchmarks.scale.figures import exponent, figures
from benchmarks.scale.publish import markdown
from benchmarks.scale.sizes import Size
from benchmarks.scale.trainers import Heart, Told
from finetune_api.status import FineTuneJobStatus, Phase

TEXT = """
# TYPE finetune_reconcile_seconds histogram
finetune_reconcile_seconds_bucket{le="0.1",result="idle"} %d
finetune_reconcile_seconds_bucket{le="1.0",result="idle"} %d
finetune_reconcile_seconds_bucket{le="+Inf",result="idle"} %d
finetune_reconcile_seconds_count{result="idle"} %d
"""


@given(factor=st.floats(0.01, 100), power=st.floats(-2, 3))
def test_the_exponent_of_a_power_is_found(factor: float, power: float) -> None:
    sizes = [100.0, 200.0, 500.0]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize(("sizes", "values"), [([5, 5], [1, 2]), ([1, 2], [0, 1])])
def test_no_exponent_is_made_up(sizes: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="no exponent"):
        exponent(sizes, values)


def test_what_happened_between_two_scrapes_has_quantiles() -> None:
    before, after = scrape.parse(TEXT % (100, 100, 100, 100)), scrape.parse(TEXT % (150, 199, 200, 200))
    since = after.since(before)
    assert since.total("finetune_reconcile_seconds_count") == 100
    assert [since.quantile("finetune_reconcile_seconds", share) for share in (0.5, 0.99)] == [0.1, 1.0]


def test_a_target_is_missed_in_words() -> None:
    point = Point(Size(10, 100), 61.0, 20.0, 300 << 20, 200 << 20, 0.01)
    found = figures(Result([point]))
    assert {figure.key: figure.met for figure in found if figure.met is not None} == {
        "peak_mib": True,
        "steady_mib": True,
        "steady_cpu_percent": True,
        "restart_seconds": False,
    }
    text = markdown(Result([point], failures=["reports"]), "machine", found)
    assert "| from start until every job is known, s | 61.0 | ≤ 60 | **missed** |" in text
    assert "- reports" in text


def test_a_part_that_fails_takes_no_other_with_it() -> None:
    result = Result()
    with result.spared():
        raise TimeoutError("no pod runs")
    with result.spared():
        result.points.append(Point(Size(10, 100)))
    assert result.failures == ["TimeoutError: no pod runs"]
    assert result.points


def test_finished_jobs_are_as_the_operator_leaves_them() -> None:
    _, wire = jobs.finished("done")
    status = FineTuneJobStatus.model_validate(wire)
    assert status.phase is Phase.SUCCEEDED
    assert len(status.attempts) == 2
    assert 5_000 < len(json.dumps(wire)) < 15_000


def test_the_target_is_for_the_largest_storm_that_was_borne() -> None:
    storms = [
        Storm(asked, events=asked * 10, seconds=seconds, handled_seconds=[handled])
        for asked, seconds, handled in ((10, 10.1, 0.1), (20, 10.5, 0.2), (40, 20.0, 9.0))
    ]
    found = {figure.key: figure.value for figure in figures(Result(storms=storms))}
    assert found["storm_p99_seconds"] == 0.2
    text = markdown(Result(storms=storms), "machine", figures(Result(storms=storms)))
    assert "| statuses | 40 | 20 | 9.00 | 9.00 |" in text


def test_a_storm_of_what_no_look_reads_is_told_and_not_judged_by() -> None:
    storms = [
        Storm(10, events=100, seconds=10.1, handled_seconds=[0.3]),
        Storm(40, events=400, annotations=True, seconds=10.1, handled_seconds=[0.1]),
    ]
    found = {figure.key: figure.value for figure in figures(Result(storms=storms))}
    assert found["storm_p99_seconds"] == 0.3
    assert "| annotations | 40 | 40 | 0.10 |" in markdown(Result(storms=storms), "machine", [])


def test_how_late_the_trainers_were_themselves_is_told_beside_their_reports() -> None:
    told = Told(seconds=[0.004] * 99 + [0.2], late=[0.001] * 99 + [0.19], intervals=[50.0] * 100)
    reporting = Reporting(told, told, 10.0, cpu_seconds=1, status_writes=100, peak_bytes=1, lag_seconds=0.025)
    found = {figure.key: figure.value for figure in figures(Result(reporting=reporting))}
    assert found["report_late_client_p99_ms"] == pytest.approx(1000 * percentile(told.late, 0.99))
    assert found["loop_lag_p99_ms"] == 25


def test_a_heart_tells_how_late_it_was_during_a_report() -> None:
    async def report() -> tuple[float, float]:
        heart = Heart()
        beating = asyncio.create_task(heart.beat())
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        time.sleep(2)  # noqa: ASYNC251 - that is what is to be seen
        held = heart.worst(began)
        await asyncio.sleep(0.02)
        at_rest = heart.worst(time.perf_counter())
        beating.cancel()
        return held, at_rest

    held, at_rest = asyncio.run(report())
    assert held >= 1.9
    assert at_rest < held


def test_of_storms_that_nobody_bore_nothing_is_said() -> None:
    assert figures(Result(storms=[Storm(40, events=400, seconds=20.0, handled_seconds=[9.0])])) == []
