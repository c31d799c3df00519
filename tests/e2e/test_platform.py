"""What a platform engineer is told to do, done: the operator with rights in one namespace that enforces the Restricted
Pod Security Standard, and a queue of Kueue there in which one job has to give way to another.

Quota is for one gang. The first job takes it, the second waits until that ends, and is preempted in the middle by a
third, which is more important.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import queues
from cluster.judges import argo_cd
from clusters.addons.kueue import Kueue
from deploy import NAMESPACE as OPERATOR_NAMESPACE
from deploy import RELEASE, run
from e2e.jobs import condition, events, losses, manifest, weights
from e2e.namespace import Namespace
from e2e.node import LocalNode

QUEUE = "team"
# What two pods of `manifest` ask for.
ONE_GANG = {"cpu": "200m", "memory": "4Gi"}
FIRST, SECOND, THIRD = "first", "second", "urgent"

Job = dict[str, Any]


@pytest.fixture(scope="module")
def team(undisturbed: Namespace) -> Iterator[Namespace]:
    """A namespace with a queue: the only one in which the operator has rights, as long as these tests run."""
    node = LocalNode.find()
    if node is None:
        pytest.skip("Kueue runs beside the API server, which is at hand on the node of a local cluster alone")
    upgrade = ("hack/cluster", "helm", "upgrade", RELEASE, "charts/finetune-operator", "--reuse-values")
    where = ("--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "5m")
    run(*upgrade, *where, "--set-json", f"watchNamespaces={json.dumps([undisturbed.name])}")
    server = f"https://127.0.0.1:{node.layout.api_port}"
    with Kueue(node.layout.kubeconfig, enter=node.enter, server=server):
        for wire in queues.queue(QUEUE, **ONE_GANG, namespace=undisturbed.name):
            undisturbed.apply(wire)
        undisturbed.apply(queues.priority(THIRD, 100))
        yield undisturbed
        # Kueue lets go of what it knows only while it runs.
        undisturbed.kubectl("delete", "finetunejobs", FIRST, SECOND, THIRD, "--ignore-not-found")
    run(*upgrade, *where, "--set-json", "watchNamespaces=[]")


@pytest.fixture(scope="module")
def story(team: Namespace, long_job: Job) -> dict[str, Job]:
    """The second job as it was at each turn of the story."""
    team.apply(_queued(manifest(FIRST, nodes=2, numEpochs=1, effectiveBatchSize=20)))
    team.follow(FIRST, lambda found: found["phase"] not in ("Pending", "Preparing", "Queued"))
    team.apply(_queued(long_job | {"metadata": {"name": SECOND}}))
    story = {}
    team.follow(SECOND, lambda found: _ready(found)["reason"] == "Pending")
    story["waits"] = _told(team)
    team.wait(FIRST, "condition=Succeeded")
    team.follow(SECOND, lambda found: found.get("progress", {}).get("step", 0) > 20)
    story["trains"] = _told(team)
    third = _queued(manifest(THIRD, nodes=2, numEpochs=1, effectiveBatchSize=20))
    third["spec"]["scheduling"]["workloadPriorityClassName"] = THIRD
    third["spec"]["dataset"]["prepare"] = (
        "Inline"  # else the second might be done before the third is in the queue
    )
    team.apply(third)
    team.follow(SECOND, lambda found: found["phase"] == "Queued")
    team.follow(THIRD, lambda found: found["phase"] in ("Running", "Succeeded"))
    story["gives way"] = _told(team)
    team.wait(THIRD, "condition=Succeeded")
    team.wait(SECOND, "condition=Succeeded")
    story["is done"] = _told(team)
    return story


def _queued(job: Job) -> Job:
    return job | {"spec": job["spec"] | {"scheduling": {"queueName": QUEUE}}}


def _ready(found: Job) -> Job:
    return condition(found, "Ready") if found.get("conditions") else {"reason": ""}


def _told(team: Namespace) -> Job:
    """The second job, and under `metrics` what Prometheus would read of it at this moment."""
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    where = ("--namespace", OPERATOR_NAMESPACE, f"deployment/{RELEASE}")
    exposed = run("hack/cluster", "kubectl", "exec", *where, "--", "python", "-c", read)
    of_it = [line for line in exposed.splitlines() if f'name="{SECOND}"' in line]
    return team.get("finetunejob", SECOND) | {"metrics": of_it}


def test_the_operator_has_rights_in_this_namespace_alone(team: Namespace) -> None:
    account = f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}"
    for namespace, answer in ((team.name, "yes"), ("default", "no")):
        asked = ("auth", "can-i", "create", "jobs.batch", "--namespace", namespace, account)
        assert team.kubectl(*asked, check=False).strip() == answer


def test_the_namespace_enforces_restricted_pods(team: Namespace) -> None:
    labels = team.get("namespace", team.name)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_second_job_waits_for_the_first_in_kueue_s_own_words(story: dict[str, Job]) -> None:
    status = story["waits"]["status"]
    assert status["phase"] == "Queued"
    assert "insufficient unused quota for" in condition(status, "Ready")["message"]
    assert status["queue"]["name"] == QUEUE
    # Its data had been prepared before, without quota.
    assert condition(status, "Prepared")["status"] == "True"


def test_it_starts_when_the_first_ends(story: dict[str, Job]) -> None:
    status = story["trains"]["status"]
    assert status["phase"] == "Running"
    assert status["queue"]["waitedSeconds"] > 0


def test_it_gives_way_to_a_more_important_one(story: dict[str, Job]) -> None:
    status = story["gives way"]["status"]
    assert (status["phase"], condition(status, "Ready")["reason"]) == ("Queued", "Preempted")
    assert status["queue"]["preemptions"] == 1
    [attempt] = status["attempts"]
    assert "endTime" not in attempt
    saved = [each["step"] for each in status["checkpoints"] if each["kind"] == "resume"]
    assert max(saved) >= story["trains"]["status"]["progress"]["step"], "it was given time to save its state"


def test_it_comes_back_and_finishes_as_if_nothing_had_happened(
    story: dict[str, Job], team: Namespace
) -> None:
    status = story["is done"]["status"]
    assert [attempt["number"] for attempt in status["attempts"]] == [1]
    assert status["restarts"] == 0
    team.wait("undisturbed", "condition=Succeeded")
    outputs = [team.claim("runs") / job / "output" for job in (SECOND, "undisturbed")]
    assert weights(outputs[0]) == weights(outputs[1])
    assert losses(team, SECOND) == losses(team, "undisturbed")


def test_its_events_tell_the_story(story: dict[str, Job], team: Namespace) -> None:
    told = [reason for reason in events(team, SECOND) if reason in ("Queued", "Admitted", "Preempted")]
    assert sorted(told) == ["Admitted", "Admitted", "Preempted", "Queued"]


@pytest.mark.parametrize(
    ("moment", "phase"),
    [("waits", "Queued"), ("trains", "Running"), ("gives way", "Queued")],
)
def test_the_dashboard_can_show_it(story: dict[str, Job], moment: str, phase: str) -> None:
    assert any(re.search(rf'phase="{phase}".* 1(\.0)?$', line) for line in story[moment]["metrics"])


@pytest.mark.parametrize(
    ("moment", "health"),
    [
        ("waits", "Progressing"),
        ("trains", "Progressing"),
        ("gives way", "Progressing"),
        ("is done", "Healthy"),
    ],
)
def test_argo_cd_sees_it(story: dict[str, Job], moment: str, health: str) -> None:
    [answer] = argo_cd([story[moment]])
    assert answer["status"] == health
