"""A gang for a scheduler that knows gangs, with a cluster that has it and one that does not."""

from typing import Any

from cluster.kube import FINETUNEJOBS, JOBS, PODS, Kube, Namespace, RefusedError, eventually
from cluster.operators import Operator
from finetune_operator.objects import pod_groups
from world import INLINE

SCHEDULING = {"schedulerName": "gang-scheduler", "podGroup": "Coscheduling"}
POD_GROUPS = "/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{namespace}/podgroups"
# As much of the scheduler-plugins' as is needed here.
CRD: dict[str, Any] = {
    "metadata": {
        "name": "podgroups.scheduling.x-k8s.io",
        "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/scheduler-plugins/pull/52"
        },
    },
    "spec": {
        "group": "scheduling.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "PodGroup", "plural": "podgroups"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "minMember": {"type": "integer"},
                                    "scheduleTimeoutSeconds": {"type": "integer"},
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


def test_a_gang_waits_for_its_scheduler_and_then_comes_with_its_group(
    kube: Kube, operator: Operator, namespace: Namespace
) -> None:
    namespace.submit(dataset=INLINE, scheduling=SCHEDULING)
    eventually(lambda: namespace.condition("Stalled")["reason"] == "Refused")
    assert namespace.condition("Stalled")["message"] == pod_groups.missing(
        {"apiVersion": "scheduling.x-k8s.io/v1alpha1"}
    )
    assert namespace.all(JOBS) == []
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    kube.request("POST", crds, CRD)
    try:
        pods = eventually(lambda: namespace.all(PODS), seconds=60)
        [group] = namespace.all(POD_GROUPS)
        assert group["spec"] == {"minMember": 2, "scheduleTimeoutSeconds": 1800}
        for pod in pods:
            assert pod["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] == group["metadata"]["name"]
            assert pod["spec"]["schedulerName"] == "gang-scheduler"
        namespace.end_pod(pods[0]["metadata"]["name"], 65)
        namespace.in_phase("Failed")
        namespace.patch(FINETUNEJOBS, "demo", {"spec": {"ttlSecondsAfterFinished": 0}})
        eventually(lambda: "cleanupTime" in namespace.status())
        assert namespace.all(POD_GROUPS) == []
    finally:
        kube.request("DELETE", f"{crds}/{CRD['metadata']['name']}")
        eventually(lambda: _is_gone(namespace))


def _is_gone(namespace: Namespace) -> bool:
    try:
        namespace.all(POD_GROUPS)
    except RefusedError as error:
        return error.status == 404
    return False
