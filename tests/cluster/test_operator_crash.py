"""An operator that is late or killed does no harm; tests/chaos kills one at every single write."""

import time
from collections.abc import AsyncIterator

import pytest

from cluster.kube import BARE_JOB, FINETUNEJOBS, JOBS, Kube, Namespace, eventually
from cluster.operators import Operator
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.api import Api, ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.observation.observed import GangJob
from world import found, report


@pytest.fixture
async def api(lonely: Kube, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(lonely.kubeconfig))
    api = await Api.connect(Metrics())
    yield api
    await api.close()


async def test_who_decided_on_an_old_status_cannot_write(api: Api, lonely: Kube) -> None:
    with lonely.namespace() as namespace:
        cluster, key = Cluster(api, instance="slow"), Key(namespace.name, "demo")
        namespace.submit()
        old = await cluster.subject(key)
        assert old is not None
        namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"touched": "yes"}}})
        with pytest.raises(ApiError) as refused:
            await cluster.write_status(old, FineTuneJobStatus(phase=Phase.FAILED))
        assert refused.value.status == 409
        assert "phase" not in namespace.status()


async def test_a_job_that_only_has_the_name_is_not_deleted(api: Api, lonely: Kube) -> None:
    with lonely.namespace() as namespace:
        namespace.create(JOBS, BARE_JOB)
        impostor = GangJob(name="demo-1", uid="00000000-0000-0000-0000-000000000000", attempt=1)
        await Cluster(api, instance="slow").delete(namespace.name, impostor)
        assert "deletionTimestamp" not in namespace.get(JOBS, "demo-1")["metadata"]


def test_the_process_is_killed_again_and_again(namespace: Namespace, operator: Operator) -> None:
    """At moments when it writes nothing, too, and with Reports."""
    namespace.submit()
    [preparing] = namespace.pods(count=1, attempt=0)
    operator.kill()
    namespace.end_pod(preparing, 0, found().to_termination_message())
    operator.start()
    pods = namespace.pods()
    operator.kill()
    namespace.run_pods(pods)
    operator.start()
    assert operator.post(namespace.name, "demo", report(), token=namespace.token(pods[0]))[0] == 200
    namespace.in_phase("Running")
    operator.kill()
    operator.start()
    time.sleep(1)
    status = namespace.status()
    assert (status["phase"], status["progress"]["step"]) == ("Running", 1)
    for pod in pods:
        namespace.end_pod(pod, 200)
    operator.kill()
    operator.start()
    second = namespace.pods(attempt=2)
    operator.kill()
    operator.start()
    for pod in second:
        namespace.end_pod(pod, 0)
    status = namespace.in_phase("Succeeded")
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2]
    assert status["restarts"] == 1
    assert eventually(lambda: "Succeeded" in namespace.events())
    assert operator.stop() == 0
    operator.start()
