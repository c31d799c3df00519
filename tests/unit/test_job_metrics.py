"""What Prometheus reads of jobs."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from finetune_api.queueing import Queueing
from finetune_api.status import Attempt, FineTuneJobStatus, Phase, Progress
from finetune_operator.monitoring import job_facts
from finetune_operator.monitoring.job_metrics import JobMetrics
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.observation.observed import Subject
from world import START, submitted

GPUS: dict[str, Any] = {"resources": {"nodes": 2, "gpusPerNode": 4}}


class Scrapes:
    """The metrics of jobs in a registry, at a time that tests move on."""

    def __init__(self) -> None:
        self.now = START
        self._registry = CollectorRegistry()
        self.jobs = JobMetrics(self._registry, lambda: self.now)

    def see(self, name: str = "demo", /, **status: object) -> None:
        """A job with this status."""
        told = FineTuneJobStatus(start_time=START, **status)
        self.jobs.see(subject(name), told)

    def value(self, metric: str, name: str = "demo", **labels: str) -> float | None:
        """A sample of a job."""
        job = {"namespace": "team", "name": name, "method": "sft"}
        return self._registry.get_sample_value(metric, job | labels)

    def total(self, metric: str, **labels: str) -> float | None:
        """A sample that is of no single job."""
        return self._registry.get_sample_value(metric, labels)

    def named(self) -> list[str]:
        """The jobs that have series."""
        return sorted(
            sample.labels["name"]
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == "finetune_job_phase"
        )


def subject(name: str) -> Subject:
    return replace(submitted(**GPUS), name=name)


def attempt(number: int = 1, end: datetime | None = None, **fields: object) -> Attempt:
    return Attempt(number=number, start_time=START, end_time=end, **fields)


def test_what_is_not_known_has_no_sample() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.RUNNING, progress=Progress(step=9, total_steps=36))
    assert scrapes.value("finetune_job_progress_ratio") == 0.25
    assert scrapes.value("finetune_job_loss") is None
    assert scrapes.value("finetune_job_restarts") == 0
    assert scrapes.value("finetune_job_gpus") == 8


def test_only_the_phase_in_which_a_job_is_has_a_series() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.PENDING)
    scrapes.see(phase=Phase.RUNNING)
    assert scrapes.value("finetune_job_phase", phase="Running") == 1
    assert scrapes.value("finetune_job_phase", phase="Pending") is None
    assert scrapes.total("finetune_jobs", phase="Running") == 1
    assert scrapes.total("finetune_jobs", phase="Pending") == 0


def test_time_goes_on_between_two_looks_at_a_job() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.RUNNING, attempts=[attempt()])
    scrapes.see(
        "waits", phase=Phase.QUEUED, queue=Queueing(name="q", waiting_since=START), attempts=[attempt()]
    )
    scrapes.now += timedelta(seconds=30)
    assert scrapes.value("finetune_job_gpu_seconds") == 8 * 30
    assert scrapes.value("finetune_job_gpu_seconds", "waits") == 0
    assert scrapes.value("finetune_job_queue_wait_seconds", "waits") == 30
    assert scrapes.total("finetune_gpus_in_use", namespace="team") == 8


def test_the_number_of_series_is_bounded_and_who_is_left_out_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scrapes = Scrapes()
    for name in ("a", "b", "c"):
        scrapes.see(name, phase=Phase.PENDING)
    scrapes.see("z", phase=Phase.RUNNING, attempts=[attempt()])
    scrapes.see("over", phase=Phase.SUCCEEDED, completion_time=START)
    monkeypatch.setattr(job_facts, "MAX_JOBS", 2)
    # What has GPUs comes first.
    assert scrapes.named() == ["a", "z"]
    assert scrapes.total("finetune_jobs_without_series") == 3
    assert scrapes.total("finetune_jobs", phase="Pending") == 3


def test_a_job_that_is_over_keeps_its_series_for_an_hour() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.FAILED, completion_time=START)
    scrapes.now += timedelta(minutes=59)
    assert scrapes.named() == ["demo"]
    scrapes.now += timedelta(minutes=1)
    assert scrapes.named() == []
    assert scrapes.total("finetune_jobs", phase="Failed") == 1


def test_a_job_that_goes_takes_its_series_with_it() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.RUNNING)
    scrapes.jobs.forget("team", "demo")
    scrapes.jobs.forget("team", "demo")
    assert scrapes.named() == []
    assert scrapes.total("finetune_jobs", phase="Running") == 0


def test_totals_follow_jobs_that_change_and_end_with_the_last_one() -> None:
    scrapes = Scrapes()
    for name in ("a", "b"):
        scrapes.see(name, phase=Phase.RUNNING, attempts=[attempt()])
    assert scrapes.total("finetune_gpus_in_use", namespace="team") == 16
    scrapes.see("a", phase=Phase.SUCCEEDED, completion_time=START)
    assert scrapes.total("finetune_gpus_in_use", namespace="team") == 8
    assert [scrapes.total("finetune_jobs", phase=phase) for phase in ("Running", "Succeeded")] == [1, 1]
    for name in ("a", "b", "a"):
        scrapes.jobs.forget("team", name)
    assert scrapes.total("finetune_gpus_in_use", namespace="team") is None
    assert scrapes.total("finetune_jobs", phase="Running") == 0


def test_a_job_that_begins_anew_has_series_again() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.FAILED, completion_time=START)
    scrapes.now += timedelta(hours=2)
    assert scrapes.named() == []
    scrapes.see(phase=Phase.PENDING)
    assert scrapes.named() == ["demo"]


def test_a_scrape_lets_others_have_their_turn_and_is_of_one_moment() -> None:
    metrics = Metrics(lambda: START)
    for number in range(3):
        metrics.jobs.see(subject(f"job-{number}"), FineTuneJobStatus(start_time=START, phase=Phase.RUNNING))

    async def scrape(forget_at: int) -> tuple[str, int]:
        turns, asked = 0, asyncio.create_task(metrics.text())
        while not asked.done():
            turns += 1
            if turns == forget_at:
                metrics.jobs.forget("team", "job-0")
            await asyncio.sleep(0)
        return asked.result().decode(), turns

    whole, turns = asyncio.run(scrape(forget_at=0))
    assert turns >= whole.count("# TYPE")
    # A job that goes in the middle of it is in all that is told of jobs, or in nothing.
    text, _ = asyncio.run(scrape(forget_at=turns - 5))
    assert text.count('name="job-0"') == whole.count('name="job-0"') > 0
    assert 'name="job-0"' not in asyncio.run(scrape(forget_at=0))[0]


def test_counters_count_what_this_operator_has_seen() -> None:
    scrapes = Scrapes()
    scrapes.now += timedelta(seconds=100)
    # 800 GPU-seconds of it were before its time.
    scrapes.see(phase=Phase.RUNNING, attempts=[attempt()])
    scrapes.now += timedelta(seconds=10)
    over = attempt(end=scrapes.now, reason="Hung", last_step=10)
    scrapes.see(phase=Phase.RESTARTING, attempts=[over])
    scrapes.see(phase=Phase.RESTARTING, attempts=[over])
    assert scrapes.total("finetune_gpu_seconds_total", namespace="team") == 80
    assert scrapes.total("finetune_attempts_ended_total", reason="Hung") == 1
    again = attempt(2, end=scrapes.now, reason="Succeeded", resumed_from_step=5)
    for _ in range(2):
        scrapes.see(phase=Phase.SUCCEEDED, completion_time=scrapes.now, attempts=[over, again])
    assert scrapes.total("finetune_attempts_ended_total", reason="Succeeded") == 1
    assert scrapes.total("finetune_jobs_ended_total", phase="Succeeded") == 1
    wasted = scrapes.total("finetune_wasted_gpu_seconds_total", namespace="team")
    assert wasted is not None
    assert wasted > 0


def test_jobs_that_were_over_before_are_not_counted_again_after_a_restart() -> None:
    scrapes = Scrapes()
    scrapes.see(phase=Phase.FAILED, completion_time=START, attempts=[attempt(end=START, reason="Hung")])
    assert scrapes.total("finetune_jobs_ended_total", phase="Failed") == 0
    assert scrapes.total("finetune_attempts_ended_total", reason="Hung") is None


def test_disruptions_are_the_ends_that_cost_no_restart() -> None:
    scrapes = Scrapes()
    ends = [("Disrupted", False), ("Hung", True), ("Suspended", False), ("Succeeded", False)]
    attempts = [
        attempt(number, end=START, reason=reason, counted=counted)
        for number, (reason, counted) in enumerate(ends, start=1)
    ]
    scrapes.see(phase=Phase.SUCCEEDED, completion_time=START, attempts=attempts, restarts=1)
    assert scrapes.value("finetune_job_disruptions") == 1
    assert scrapes.value("finetune_job_restarts") == 1


def test_a_job_whose_spec_is_not_valid_is_told_as_well() -> None:
    scrapes = Scrapes()
    scrapes.jobs.see(submitted(method="magic"), FineTuneJobStatus(phase=Phase.FAILED))
    scrapes.now += timedelta(days=1)
    assert scrapes.total("finetune_jobs", phase="Failed") == 1
    # It has not begun, so it is not over: until somebody mends it.
    assert scrapes.value("finetune_job_phase", method="unknown", phase="Failed") == 1
