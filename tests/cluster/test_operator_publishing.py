"""The upload of a result on a real API server; the tests play the kubelet."""

import time

import pytest

from cluster.kube import FINETUNEJOBS, JOBS, Namespace, Wire, eventually
from cluster.operators import Operator
from finetune_api.names import PUBLISHING
from finetune_api.report import Failure, Stage
from world import INLINE, OUTPUT, PUBLISH, TARGET, published, publishing, report

pytestmark = pytest.mark.usefixtures("operator")

# What kstatus looks at.
KSTATUS = ("Ready", "Reconciling", "Stalled")


def uploading(namespace: Namespace, **spec: object) -> str:
    """Have the demo job's gang end well; returns the pod that uploads its result, once it runs."""
    namespace.submit(**({"dataset": INLINE} | PUBLISH | spec))
    for pod in reversed(pods := namespace.pods()):
        last = report(1, 99, step=36, stage=Stage.FINISHED, output=OUTPUT)
        namespace.end_pod(pod, 0, last.to_termination_message() if pod == pods[0] else "")
    namespace.in_phase("Succeeded")
    [pod] = namespace.pods(count=1, attempt=PUBLISHING)
    namespace.run_pods([pod])
    return pod


def current(namespace: Namespace) -> bool:
    """Whether kstatus takes the job for done."""
    told = {one["type"]: one["status"] for one in namespace.status()["conditions"]}
    return [told[type_] for type_ in KSTATUS] == ["True", "False", "False"]


def told(namespace: Namespace) -> Wire | None:
    found = [one for one in namespace.status()["conditions"] if one["type"] == "Published"]
    return found[0] if found else None


def test_a_done_job_stays_done_while_its_result_is_uploaded_and_is_cleaned_up_after(
    namespace: Namespace, operator: Operator
) -> None:
    pod = uploading(namespace, ttlSecondsAfterFinished=0)
    assert current(namespace)
    token = namespace.token(pod)
    assert operator.post(namespace.name, "demo", publishing(), token=token)[0] == 200
    eventually(lambda: namespace.condition("Published")["reason"] == "Publishing")
    assert namespace.condition("Published")["message"].endswith("3.0 GiB of 12 GiB, 25 %")
    assert current(namespace)
    assert "cleanupTime" not in namespace.status()
    namespace.end_pod(pod, 0, published().to_termination_message())
    eventually(lambda: namespace.condition("Published")["status"] == "True")
    eventually(lambda: "cleanupTime" in namespace.status())
    assert namespace.belongings() == []
    assert namespace.status()["publication"]["published"]["target"] == TARGET
    assert current(namespace)
    eventually(lambda: namespace.events()[-3:] == ["Succeeded", "Published", "CleanedUp"])


def test_a_refused_upload_is_told_and_another_request_begins_anew(
    namespace: Namespace, operator: Operator
) -> None:
    pod = uploading(namespace)
    failure = Failure(exit_code=77, reason="AccessDenied", message="spec.publish.objectStore: no access")
    last = publishing(9, stage=Stage.FAILED, transfer=None, failure=failure)
    namespace.end_pod(pod, 77, last.to_termination_message())
    eventually(lambda: namespace.condition("Published")["status"] == "False")
    assert namespace.condition("Published")["reason"] == "AccessDenied"
    assert "no access. Try 2 of 24 follows at " in namespace.condition("Published")["message"]
    assert namespace.status()["phase"] == "Succeeded"
    assert current(namespace)
    eventually(lambda: namespace.events()[-1] == "PublishFailed")
    writes = operator.writes()
    time.sleep(2)
    assert operator.writes() == writes
    store = {"uri": TARGET, "credentialsSecretRef": {"name": "right"}}
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"publish": {"objectStore": store}}})
    eventually(lambda: namespace.status()["publication"]["tries"] == 0)
    [again] = eventually(
        lambda: [one for one in namespace.pods(count=1, attempt=PUBLISHING) if one != pod], seconds=30
    )
    namespace.run_pods([again])
    namespace.end_pod(again, 0, published().to_termination_message())
    eventually(lambda: namespace.condition("Published")["status"] == "True")
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"publish": None}})
    eventually(lambda: told(namespace) is None)
    assert "publication" not in namespace.status()
    assert {job["metadata"]["name"] for job in namespace.all(JOBS)} == {"demo-1"}
