"""`finetune explain`: the cause, the evidence, what to do, and what happens by itself."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.reasons import REASONS, Outlook
from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.explaining.explanation import Explanation, explain
from finetune_operator.cli.explaining.sight import Queue, Quota, Sight
from finetune_operator.observation.observed import Subject
from terminal import finetune
from world import INLINE, MERGES, OUTPUT, PUBLISH, World, merged, report, submitted

UNSCHEDULABLE = ("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")


def sight(world: World, **more: Any) -> Sight:
    return Sight(world.subject, tuple(world.jobs.values()), tuple(world.pods.values()), **more)


def explained(world: World, **more: Any) -> Explanation:
    return explain(sight(world, **more), world.now)


def started(**spec: Any) -> World:
    world = World(spec={"dataset": INLINE} | spec)
    world.settle()
    return world


def test_a_gang_that_finds_no_node_is_explained_by_the_schedulers_words() -> None:
    world = started()
    [first, *_] = world.current_pods
    world.pods[first.name] = replace(first, waiting=UNSCHEDULABLE)
    world.settle()
    # What is said for certain does not give way to what was said once.
    told = explained(world, warnings={first.name: ("FailedMount", "long ago")})
    assert (
        told.summary == f"finetunejob/demo is Starting: 0 of 2 pods run; demo-1-0: {': '.join(UNSCHEDULABLE)}"
    )
    assert (told.reason, told.outlook) == ("Unschedulable", Outlook.ACT)
    assert f"pod demo-1-0: {': '.join(UNSCHEDULABLE)}" in told.evidence
    assert "Free GPUs or add nodes" in told.remedy
    assert "startupDeadlineSeconds" in told.by_itself


@pytest.mark.parametrize(
    ("pods", "name", "warning"),
    [
        (True, "demo-1-0", ("FailedMount", 'persistentvolumeclaim "runs" not found')),
        (False, "demo-1", ("FailedCreate", "exceeded quota: team, requested: pods=1")),
    ],
)
def test_a_vague_reason_gives_way_to_a_warning_about_the_same_thing(
    pods: bool, name: str, warning: tuple[str, str]
) -> None:
    world = started()
    for pod in world.current_pods:
        world.pods[pod.name] = replace(pod, waiting=("ContainerCreating", ""))
    world.settle()
    seen = sight(world, warnings={name: warning})
    told = explain(seen if pods else replace(seen, pods=()), world.now)
    assert (told.reason, told.summary) == (warning[0], f"finetunejob/demo is Starting: {name}: {warning[1]}")
    assert any(": ".join(warning) in line for line in told.evidence)


def test_a_failed_job_is_explained_by_its_attempts_and_nothing_happens_by_itself() -> None:
    world = started()
    world.run_pods()
    world.fail_pod(1, exit_code=79, message="step 7: the loss is nan", log="one\ntwo\n", node="gpu-3")
    world.settle()
    world.now += timedelta(minutes=10)
    told = explained(world)
    assert told.reason == "LossNotFinite"
    assert told.summary.startswith(
        "finetunejob/demo is Failed for 10m: demo-1-1: step 7: the loss is nan. Lower"
    )
    assert told.evidence[0].startswith(
        "attempt 1 ended: LossNotFinite (exit code 79, node gpu-3): demo-1-1: "
    )
    assert told.evidence[1] == "the end of its log:\none\ntwo"
    assert "Lower spec.hyperparameters.learningRate" in told.remedy
    assert told.by_itself.startswith("Nothing: a job that has failed stays so")
    assert told.outlook is Outlook.ACT


def test_a_job_that_has_failed_needs_somebody_although_its_last_end_would_have_passed() -> None:
    world = started(failurePolicy={"maxRestarts": 0})
    world.run_pods()
    world.fail_pod(0, exit_code=137)
    world.now += timedelta(seconds=10)
    world.settle()
    told = explained(world)
    assert (told.reason, told.outlook) == ("Killed", Outlook.ACT)
    assert told.by_itself.startswith("Nothing: ")
    assert "in a new FineTuneJob" in told.remedy
    assert told.remedy.endswith("Where it repeats, set spec.resources.requests.memory to what it needs.")


def test_of_a_job_that_has_failed_nobody_is_told_that_nothing_need_be_done() -> None:
    world = started(failurePolicy={"maxDisruptions": 0})
    world.run_pods()
    world.fail_pod(0, exit_code=143, disruption="Eviction API: evicting")
    world.now += timedelta(seconds=10)
    world.settle()
    told = explained(world)
    assert (told.reason, told.outlook) == ("Disrupted", Outlook.ACT)
    assert "raise failurePolicy.maxDisruptions" in told.remedy
    assert "Nothing need be done" not in told.remedy


def test_a_restart_tells_how_much_of_the_budgets_is_used_up() -> None:
    world = started()
    world.run_pods()
    world.fail_pod(0, exit_code=137)
    world.now += timedelta(seconds=10)
    world.turn()
    told = explained(world)
    assert told.reason == "Killed"
    assert (
        "since the newest state (step 0) 1 of 3 restarts and 0 of 100 disruptions are used up"
        in told.evidence
    )
    assert "The next attempt goes on from the newest state" in told.by_itself


def test_a_gang_in_its_queue_is_explained_by_kueues_own_words_and_its_quota() -> None:
    # Its spec need not name the queue: an administrator may have filled it in.
    world = started()
    words = "insufficient unused quota for nvidia.com/gpu in flavor h200, 8 more needed"
    condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": words}
    queue = Queue(
        "team-a", pending=2, admitted=1, quotas=(Quota("nvidia.com/gpu (flavor h200)", "16", "16"),)
    )
    for job in world.jobs.values():
        world.jobs[job.name] = replace(job, queue="team-a", suspended=True)
    world.settle()
    world.now += timedelta(minutes=3)
    told = explained(world, workload={"status": {"conditions": [condition]}}, queue=queue)
    assert told.summary.startswith("finetunejob/demo is Queued for 3m")
    assert told.summary.endswith(f": in queue team-a: {words}")
    assert (told.reason, told.outlook) == ("Pending", Outlook.PASSES)
    assert told.evidence[-3:] == (
        f"Workload: QuotaReserved=False, Pending: {words}",
        "queue team-a: 2 waiting, 1 admitted",
        "quota of nvidia.com/gpu (flavor h200): 16 of 16 used",
    )
    condition["message"] = "current podset request (400m) > maximum capacity (300m)"
    assert explained(world, workload={"status": {"conditions": [condition]}}).outlook is Outlook.ACT
    missing = explained(world, queue=Queue("team-a", exists=False))
    assert "there is no LocalQueue team-a in this namespace" in missing.evidence


def test_a_job_that_nobody_looks_at_points_to_the_operator() -> None:
    told = explain(Sight(submitted()), World().now)
    assert told.summary == "no operator has looked at finetunejob/demo yet"
    assert "is the operator running" in told.remedy
    assert told.outlook is Outlook.ACT


def test_an_upload_that_failed_is_what_a_job_that_succeeded_is_explained_by() -> None:
    world = started(**PUBLISH)
    world.run_pods()
    world.succeed(report(step=36, output=OUTPUT))
    world.settle()
    world.run_pods()
    world.fail_single_pod(77, message="no access")
    world.turn()
    told = explained(world)
    assert told.reason == "AccessDenied"
    assert "no access" in told.summary
    assert any(line.startswith("try 1 of the upload failed: ") for line in told.evidence)


def test_what_may_not_be_seen_and_what_is_not_observed_yet_is_said() -> None:
    world = started()
    world.edit(suspend=True)
    told = explained(world, hidden=("you may not list pods in namespace team",))
    assert told.hidden == ("you may not list pods in namespace team",)
    assert told.evidence[0].startswith("the newest change of the job (generation 2) is not observed yet")


def lives() -> dict[str, Callable[[], World]]:
    def suspended() -> World:
        return started(suspend=True)

    def rejected() -> World:
        world = World(spec={"method": "nonsense"})
        world.settle()
        return world

    def preparing() -> World:
        world = World()
        world.settle()
        return world

    def running() -> World:
        world = started()
        world.run_pods()
        world.post(report())
        world.settle()
        return world

    def merging() -> World:
        world = started(**MERGES)
        world.run_pods()
        world.succeed(report(step=36, output=OUTPUT))
        world.settle()
        return world

    def succeeded() -> World:
        world = merging()
        world.run_pods()
        world.succeed(merged())
        world.settle()
        return world

    return {
        made.__name__: made for made in (suspended, rejected, preparing, started, running, merging, succeeded)
    }


@pytest.mark.parametrize("life", lives())
def test_wherever_a_job_stands_its_reason_is_known_and_its_condition_told(life: str) -> None:
    world = lives()[life]()
    told = explained(world)
    assert told.reason in REASONS
    [ready] = [condition for condition in world.status.conditions if condition.type == "Ready"]
    assert told.summary.endswith(f": {ready.message}")
    assert json.loads(json.dumps(told.document()))["reason"] == ready.reason


def test_a_job_that_is_being_deleted_is_explained_without_a_status() -> None:
    subject: Subject = replace(submitted(FineTuneJobStatus()), deleting=True)
    assert explain(Sight(subject), World().now).summary == "finetunejob/demo is being deleted"


def test_a_reason_is_explained_without_a_cluster() -> None:
    told = finetune("explain", "ImagePullBackOff")
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[0] == (
        "ImagePullBackOff: The image cannot be pulled, and the kubelet tries again ever more rarely. "
        "Somebody has to do something."
    )
    assert "What to do\n  Is the image's name right" in told.stdout
    assert json.loads(finetune("explain", "Training", "-o", "json").stdout)["needsAttention"] is False
    refused = finetune("explain", "ImagePullBackoff")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "Error: ImagePullBackoff is no reason of a job; did you mean ImagePullBackOff or ErrImagePull?\n",
    )
