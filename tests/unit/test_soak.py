"""What the soak draws by lot, how it judges the end of a job, and what it takes for a leak."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.soak.figures import Course, figures
from benchmarks.soak.leaks import trend
from benchmarks.soak.plan import Ending, Fault, JobPlan, faults, job
from benchmarks.soak.publish import markdown
from benchmarks.soak.verdict import End, problems

PLAN = JobPlan("sft-001", "sft", 1, 2, False, False, False, Ending.SUCCEEDED, 0.0)
GOOD = End("Succeeded", "Completed", total_steps=3, last_step=3, steps=[1, 2, 3])
HOUR = 3600.0
MINUTES = np.arange(60.0)


def test_a_seed_draws_the_same_jobs_and_faults_again() -> None:
    jobs = [job(1, number) for number in range(300)]
    assert jobs == [job(1, number) for number in range(300)]
    assert jobs != [job(2, number) for number in range(300)]
    assert {each.ending for each in jobs} == set(Ending)
    assert faults(1, HOUR) == faults(1, HOUR) != faults(2, HOUR)


def test_an_hour_has_every_fault_and_spares_the_operator_in_its_second_half() -> None:
    drawn = [fault for seed in range(5) for fault in faults(seed, HOUR)]
    assert {each.fault for each in drawn} == set(Fault)
    assert all(each.second < HOUR / 2 for each in drawn if each.fault is Fault.KILL_OPERATOR)
    assert all(0 < each.second < HOUR for each in drawn)


def test_a_job_that_did_all_of_its_steps_once_is_as_it_was_meant_to_be() -> None:
    assert problems(PLAN, GOOD) == []


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (replace(GOOD, steps=[1, 2, 2, 3]), "told of the steps 1 2 2 3 in the place of 1 to 3, each once"),
        (replace(GOOD, steps=[1, 3]), "told of the steps 1 3 in the place of 1 to 3, each once"),
        (replace(GOOD, last_step=2, steps=[1, 2]), "succeeded after step 2 of 3"),
        (replace(GOOD, total_steps=0, last_step=0, steps=[]), "succeeded after step 0 of 0"),
        (replace(GOOD, missing_files=["a"]), "succeeded without a"),
        (replace(GOOD, left=["pods/a"]), "left pods/a behind"),
        (End("Failed", "Error"), "is Failed (Error), but should have succeeded"),
        (End("Late", "Running after 900 s"), "is Late (Running after 900 s), but should have succeeded"),
        (End("Vanished"), "is Vanished (), but should have succeeded"),
    ],
)
def test_a_job_that_ends_otherwise_is_lost(end: End, problem: str) -> None:
    assert problems(PLAN, end) == [problem]


def test_a_job_to_be_deleted_may_be_quicker_than_that_but_not_fail() -> None:
    plan = replace(PLAN, ending=Ending.DELETED)
    assert problems(plan, GOOD) == []
    assert problems(plan, End("Failed", "Error"))
    assert problems(plan, replace(GOOD, steps=[1, 3]))
    assert problems(plan, End("Deleted", left=["pods/a"])) == ["left pods/a behind"]


def test_only_an_evaluated_job_may_stop_early() -> None:
    early = replace(GOOD, last_step=2, steps=[1, 2])
    assert problems(replace(PLAN, evaluated=True), early) == []
    assert problems(PLAN, early)


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        (Ending.INVALID_DATA, End("Failed", "InvalidData")),
        (Ending.LOSS_NOT_FINITE, End("Failed", "LossNotFinite")),
        (Ending.INVALID_CONFIGURATION, End("Failed", "InvalidConfiguration")),
        (Ending.REFUSED, End("Refused")),
        (Ending.DELETED, End("Deleted")),
        (Ending.RESUMED, GOOD),
    ],
)
def test_every_other_end_is_wanted_by_one_kind_of_job_alone(ending: Ending, end: End) -> None:
    assert problems(replace(PLAN, ending=ending), end) == []
    others = [Ending.INVALID_DATA, Ending.LOSS_NOT_FINITE, Ending.INVALID_CONFIGURATION, Ending.REFUSED]
    assert all(problems(replace(PLAN, ending=other), end) for other in others if other is not ending)


def test_what_rises_to_the_end_leaks_and_what_levels_off_does_not() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 60)
    rising = trend(MINUTES.tolist(), (100 + MINUTES / 2 + noise).tolist(), allowance=8)
    assert rising is not None
    assert rising.leaks
    assert rising.growth == pytest.approx(14.5, abs=2)
    level = trend(MINUTES.tolist(), (100 + np.minimum(MINUTES, 25) + noise).tolist(), allowance=8)
    assert level is not None
    assert not level.leaks


def test_neither_an_accident_nor_a_small_rise_is_a_leak() -> None:
    accidents = np.random.default_rng(3).normal(100, 40, 60)
    wild = trend(MINUTES.tolist(), (accidents + MINUTES / 3).tolist(), allowance=8)
    small = trend(MINUTES.tolist(), (100 + MINUTES / 10).tolist(), allowance=8)
    assert wild is not None
    assert small is not None
    assert wild.growth > 8
    assert not wild.leaks
    assert not small.leaks


def test_a_short_run_is_not_judged() -> None:
    assert trend([0, 60, 120], [1, 2, 3], allowance=0) is None
    assert trend([], [], allowance=0) is None


def test_a_run_that_was_interrupted_at_once_can_be_written_down() -> None:
    course = Course(seed=5)
    assert figures(course)["jobs"] == 0
    assert "0 jobs ended" in markdown(course)


def test_of_the_operator_only_the_life_of_the_last_process_is_judged() -> None:
    course = Course(seed=5)
    # One that held little, and then another that holds more, and goes on to do so.
    course.measured = [
        {"second": 60.0 * n, "operator_pid": n // 50, "operator_descriptors": 20 if n < 50 else 40, "pods": 3}
        for n in range(80)
    ]
    assert course.leaks() == []
    course.measured = [
        each | {"operator_pid": 0, "operator_descriptors": each["second"]} for each in course.measured
    ]
    assert course.leaks() == ["operator_descriptors"]


def test_what_is_still_there_after_the_last_job_was_left_behind() -> None:
    course = Course(seed=5, before={"pod_processes": 2, "configmaps": 1, "containers": 2})
    course.after = {"pod_processes": 2, "configmaps": 1, "containers": 6}
    assert course.left() == []
    course.after = {"pod_processes": 3, "configmaps": 1, "containers": 6}
    assert course.left() == ["pod_processes"]


def test_a_lost_job_is_named_with_the_place_of_its_story() -> None:
    course = Course(seed=5)
    course.ended(PLAN, 2, problems(PLAN, End("Failed", "Error")))
    told = markdown(course)
    assert "sft-001: is Failed (Error), but should have succeeded" in told
    assert "build/soak/sft-001" in told
    assert (figures(course)["jobs_lost"], figures(course)["restarts"]) == (1, 1)
