"""The story of a job, as kubectl tells it."""

import asyncio
import subprocess
from typing import Any

import pytest

from cluster.kube import Namespace
from cluster.operators import Operator
from clusters.binaries import ensure
from finetune_api.report import Stage
from finetune_operator.api import Api
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.status.transitions import Event
from world import INLINE, OUTPUT, checkpoint, report

# More than a dozen: so few, kubectl's sort would leave in the order in which they come, which is that of their names.
STORY = [f"happening {number}" for number in range(30)]


async def tell(namespace: Namespace) -> None:
    """All of the story at once, but for a new second amidst it."""
    metrics = Metrics()
    api = await Api.connect(metrics)
    try:
        cluster = Cluster(api, instance="test")
        subject = await cluster.subject(Key(namespace.name, "demo"))
        assert subject is not None
        for number, happening in enumerate(STORY):
            await asyncio.sleep(1 if number == 20 else 0)
            await cluster.post(subject, Event("Happened", happening))
    finally:
        await api.close()


@pytest.mark.parametrize("command", ["describe ftj demo", "get events", "events --for=ftj/demo"])
def test_events_are_shown_in_the_order_in_which_they_happened(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(namespace.kube.kubeconfig))
    namespace.submit()
    asyncio.run(tell(namespace))
    [kubectl] = ensure(["kubectl"]).values()
    shown = subprocess.run(
        [kubectl, *command.split(), f"--namespace={namespace.name}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = [line.partition("happening ")[2].strip() for line in shown.splitlines() if "Happened" in line]
    assert [f"happening {number}" for number in told] == STORY
    assert "finetune-operator" in shown or command != "describe ftj demo"


def test_a_whole_life_reads_as_a_story(
    namespace: Namespace, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(namespace.kube.kubeconfig))

    def trains(attempt: int, **told: Any) -> list[str]:
        pods = namespace.pods(attempt=attempt)
        namespace.run_pods(pods)
        token = namespace.token(pods[0])
        assert operator.post(namespace.name, "demo", report(attempt, **told), token=token)[0] == 200
        namespace.in_phase("Running")
        return pods

    namespace.submit(dataset=INLINE)
    first = trains(1, step=12, checkpoints=[checkpoint(10, "resume")])
    namespace.end_pod(first[0], 200)
    namespace.end_pod(first[1], 200)
    second = trains(2, step=12, resumed_from_step=10, checkpoints=[checkpoint(10, "resume")])
    namespace.end_pod(second[1], 0)
    last = report(2, 99, step=36, stage=Stage.FINISHED, output=OUTPUT, checkpoints=[checkpoint(36)])
    namespace.end_pod(second[0], 0, last.to_termination_message())
    namespace.in_phase("Succeeded")

    lines = described(namespace).partition("Events:")[2].splitlines()[3:]
    story = [
        (type_, reason, words)
        for type_, reason, _, _, words in (line.split(maxsplit=4) for line in lines if line)
    ]
    why = f"attempt 1 ended and is started again: {first[0]}: the trainer ended with exit code 200."
    assert story == [
        ("Normal", "Accepted", "the spec is valid; attempt 1 begins"),
        ("Normal", "CheckpointSaved", "resume checkpoint of step 10 in demo/checkpoints/step-00000010"),
        ("Warning", "Restarting", f"{why} Its logs are in demo/logs/attempt-1 on claim runs."),
        ("Normal", "Started", "attempt 2 begins"),
        ("Normal", "Continued", "attempt 2 goes on from step 10"),
        ("Normal", "CheckpointSaved", "weights checkpoint of step 36 in demo/checkpoints/step-00000036"),
        ("Normal", "Succeeded", "the model is in demo/output on claim runs"),
    ]


def described(namespace: Namespace) -> str:
    """What kubectl describe shows of the demo job."""
    [kubectl] = ensure(["kubectl"]).values()
    command = [str(kubectl), "describe", "ftj", "demo", f"--namespace={namespace.name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
