"""A job that is disturbed again and again, each time in another way, and nevertheless comes to the very same end."""

import os
import random
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from e2e import faults
from e2e.jobs import losses, poll, status, weights
from e2e.namespace import Namespace

EVERY = 8


@dataclass(frozen=True)
class Fault:
    """One way to end an attempt."""

    strike: Callable[[Namespace, list[str]], None]
    """Takes the names of the gang's pods, by rank."""
    reasons: frozenset[str]
    """What the attempt may be said to have ended of."""
    counted: bool | None
    """Whether it is at the cost of maxRestarts; None where that depends on who is faster."""
    saved: bool = False
    """Whether the gang is asked to go, and so saves its state first."""
    damaged: int = 0
    """States that are of no use afterwards."""


def _kill_a_process(namespace: Namespace, pods: list[str]) -> None:
    faults.signal_training(namespace, pods[1], signal.SIGKILL)


def _delete_a_pod(namespace: Namespace, pods: list[str]) -> None:
    faults.delete_pod(namespace, pods[0])


def _evict_a_pod(namespace: Namespace, pods: list[str]) -> None:
    faults.evict(namespace, pods[1])


def _kill_operator_and_a_pod(namespace: Namespace, pods: list[str]) -> None:
    faults.kill_operator()
    faults.delete_pod_at_once(namespace, pods[1])


def _delete_children_and_a_pod(namespace: Namespace, pods: list[str]) -> None:
    faults.delete_children(namespace, JOB)
    faults.delete_pod(namespace, pods[1])


def _damage_the_newest_state(namespace: Namespace, pods: list[str]) -> None:
    for pod in pods:  # so that nobody saves another one meanwhile
        faults.signal_training(namespace, pod, signal.SIGSTOP)
    faults.flip_a_byte(faults.states(namespace.claim("runs") / JOB)[-1])
    for pod in pods:
        faults.signal_training(namespace, pod, signal.SIGKILL)


JOB = "stormy"
FAULTS = {
    "a training process is killed": Fault(_kill_a_process, frozenset({"Killed"}), counted=True),
    "a pod is deleted": Fault(_delete_a_pod, frozenset({"Terminated"}), counted=False, saved=True),
    "a pod is evicted": Fault(
        _evict_a_pod, frozenset({"Disrupted", "Terminated"}), counted=False, saved=True
    ),
    # Without grace there may be a second left, or none, in which its process asks the others to save.
    "operator and pod die at the same time": Fault(
        _kill_operator_and_a_pod,
        frozenset({"PodVanished", "CollectiveTimeout", "Terminated"}),
        counted=None,
    ),
    "Service, ConfigMap and a pod are deleted": Fault(
        _delete_children_and_a_pod, frozenset({"Terminated"}), counted=False, saved=True
    ),
    "the newest state is damaged, and the gang killed": Fault(
        _damage_the_newest_state, frozenset({"Killed"}), counted=True, damaged=1
    ),
}


@dataclass(frozen=True)
class Story:
    """What was done to the job, in order, and what is told of it at its end."""

    faults: list[Fault]
    status: dict[str, Any]
    described: str

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Every attempt, the one that came to the end included."""
        found: list[dict[str, Any]] = self.status["attempts"]
        return found


@pytest.fixture(scope="module")
def story(undisturbed: Namespace, long_job: dict[str, Any]) -> Story:
    """The job, disturbed at random moments. One restart is all that it may need without a new state in between."""
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"FAULTS_SEED={seed}")  # noqa: T201 - shown when a test fails
    draw = random.Random(seed)
    order = draw.sample(sorted(FAULTS), len(FAULTS))
    job = long_job | {"metadata": {"name": JOB}}
    job["spec"] = job["spec"] | {"failurePolicy": {"maxRestarts": 1, "maxDisruptions": 1}}
    undisturbed.apply(job)
    total = undisturbed.follow(JOB, lambda found: _steps(found) > 0)["plan"]["totalSteps"]
    # A moment in each part of the run but the last.
    parts = len(FAULTS) + 1
    for number, name in enumerate(order, start=1):
        moment = draw.randrange((number - 1) * total // parts, number * total // parts)
        before = undisturbed.follow(JOB, _came_to(number, moment))
        print(f"step {_steps(before)}: {name}")  # noqa: T201
        FAULTS[name].strike(undisturbed, faults.gang(undisturbed, JOB))
    undisturbed.wait(JOB, "condition=Succeeded")
    undisturbed.wait("undisturbed", "condition=Succeeded")
    # How a job ended is written down before it is told as an event.
    ended = ("events", "--field-selector", f"involvedObject.name={JOB},reason=Succeeded")
    poll(lambda: bool(undisturbed.get(*ended)["items"]), seconds=60)
    return Story(
        [FAULTS[name] for name in order],
        status(undisturbed, JOB),
        undisturbed.kubectl("describe", "ftj", JOB),
    )


def _steps(found: dict[str, Any]) -> int:
    return int(found.get("progress", {}).get("step", 0))


def _came_to(number: int, moment: int) -> Callable[[dict[str, Any]], bool]:
    """Whether the attempt of that number has come to a step, and to a state of its own."""

    def holds(found: dict[str, Any]) -> bool:
        attempt = found["attempts"][-1]
        begun = attempt.get("resumedFromStep", 0)
        saved = max((each["step"] for each in found["checkpoints"] if each["kind"] == "resume"), default=0)
        # The attempt before may have left a state that was damaged since.
        own = saved > max(begun, found.get("sinceCheckpoint", {}).get("step", 0))
        return attempt["number"] == number and _steps(found) >= moment and own

    return holds


def test_the_weights_are_those_of_a_run_that_nothing_happened_to(
    story: Story, undisturbed: Namespace
) -> None:
    outputs = [undisturbed.claim("runs") / job / "output" for job in (JOB, "undisturbed")]
    assert weights(outputs[0]) == weights(outputs[1])


def test_every_step_is_told_once_with_the_same_loss(story: Story, undisturbed: Namespace) -> None:
    assert losses(undisturbed, JOB) == losses(undisturbed, "undisturbed")
    assert len(losses(undisturbed, JOB)) == story.status["plan"]["totalSteps"]


def test_every_attempt_tells_how_it_ended(story: Story) -> None:
    assert [attempt["number"] for attempt in story.attempts] == list(range(1, len(FAULTS) + 2))
    *ended, last = story.attempts
    assert (last["reason"], last["exitCode"]) == ("Completed", 0)
    for fault, attempt in zip(story.faults, ended, strict=True):
        assert attempt["reason"] in fault.reasons, attempt
        assert fault.counted in (attempt["counted"], None), attempt
        assert attempt["startTime"] <= attempt["endTime"]
        assert attempt["message"]


def test_every_attempt_goes_on_where_the_one_before_had_saved_its_state(story: Story) -> None:
    begun = [attempt.get("resumedFromStep", 0) for attempt in story.attempts]
    for fault, attempt, (before, resumed) in zip(story.faults, story.attempts, pairwise(begun), strict=False):
        # Each attempt was hit when it had a state of its own. Where that is damaged and was its only one, there is
        # still the one that the attempt began with.
        assert resumed >= before if fault.damaged else resumed > before, begun
        lost = attempt["lastStep"] - resumed
        if fault.saved:
            assert lost == 0, attempt
        else:
            # The state of the last step may have been on its way to the disk.
            assert 0 <= lost <= EVERY * (2 + fault.damaged), attempt


def test_a_new_state_gives_back_what_restarts_were_used(story: Story) -> None:
    # More of them than one state allows for.
    assert story.status["restarts"] == sum(attempt["counted"] for attempt in story.attempts) > 1
    since = story.status["sinceCheckpoint"]
    assert since["restarts"] + since["disruptions"] <= 1
    # The last attempt that was hit had a state of its own. One that it saved when it was asked to go may have been told
    # after its end was counted.
    assert since["step"] > story.attempts[-2].get("resumedFromStep", 0)


def test_describe_tells_the_story_in_order(story: Story) -> None:
    _, _, events = story.described.partition("\nEvents:")
    told = re.findall(r"^  (?:Normal|Warning) +(\w+) ", events, re.MULTILINE)
    attempts = [reason for reason in told if reason in ("Started", "Continued", "Restarting", "Succeeded")]
    again = ["Restarting", "Started", "Continued"] * len(FAULTS)
    assert attempts == ["Started", *again, "Succeeded"]
    begun = [int(step) for step in re.findall(r"goes on from step (\d+)", events)]
    assert begun == [attempt["resumedFromStep"] for attempt in story.attempts[1:]]
    saved = [int(step) for step in re.findall(r"resume checkpoint of step (\d+)", events)]
    assert saved == sorted(saved)
    assert [reason for reason in told if reason == "Prepared"] == ["Prepared"]
