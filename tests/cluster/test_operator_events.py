"""The story of a job, as kubectl tells it."""

import asyncio
import subprocess

import pytest

from cluster.kube import Namespace
from clusters.binaries import ensure
from finetune_operator.api import Api
from finetune_operator.cluster import Cluster, Key
from finetune_operator.metrics import Metrics
from finetune_operator.transitions import Event

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
