"""Every pod of the operator's making, and its own, in a namespace that enforces the Restricted Pod Security Standard.

Those of jobs that say what they may in any way; tests/e2e runs pods in such namespaces.
"""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from cluster.chart import IMAGES, rendered
from cluster.kube import PODS, Kube, Namespace, RefusedError
from cluster.test_spec_agreement import SETTINGS
from clusters.local import ControlPlane
from finetune_operator import validation
from finetune_operator.lifecycle import steps
from finetune_operator.objects import workload
from finetune_operator.objects.pods import Manifest
from generated import Wire, jobs
from world import INSTALLATION, MERGES, PUBLISH, manifest

INSTALLED = replace(INSTALLATION, pull_secrets=("pull",))
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}
# All that a job can give to its pods at once, so that not only chance decides what is tried.
EVERYTHING: dict[str, Any] = {
    **MERGES,
    **PUBLISH,
    "model": {"image": {"reference": "registry.example/model:1"}},
    "dataset": {
        "train": {"objectStore": {"uri": "s3://b/t.jsonl", "credentialsSecretRef": {"name": "s3"}}},
        "validation": {"configMap": {"name": "rows", "key": "v.jsonl"}},
    },
    "tracking": {"wandb": {"secretRef": {"name": "wandb"}}},
    "resources": {
        "nodes": 4,
        "gpusPerNode": 8,
        "requests": {"cpu": "8", "memory": "64Gi"},
        "sharedMemory": "8Gi",
    },
    "scheduling": {
        "queueName": "team",
        "priorityClassName": "high",
        "nodeSelector": {"pool": "training"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "topologyKey": "topology.kubernetes.io/zone",
        "schedulerName": "volcano",
        "podGroup": "Volcano",
    },
}


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """One of a control plane that has image volumes, too."""
    with ControlPlane("--feature-gates=ImageVolume=true") as plane:
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        name = f"restricted-{uuid.uuid4().hex[:8]}"
        with kube.namespace(name) as made:
            kube.request(
                "PATCH",
                f"/api/v1/namespaces/{name}",
                {"metadata": {"labels": ENFORCED}},
                "application/merge-patch+json",
            )
            account = {"metadata": {"name": "finetune-operator"}}
            kube.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", account)
            yield made


def pods(wire: Wire) -> list[Manifest]:
    """A pod of every step of a job."""
    job, problems = validation.read(wire | {"metadata": {"name": "demo", "namespace": "team", "uid": "u"}})
    assert job is not None, problems
    made = [*workload.attempt(job, 1, INSTALLED, prepared={}, avoid=["node-1"])]
    made += workload.preparation(job, INSTALLED)
    if steps.merges(job):
        made += workload.merging(job, INSTALLED, prepared={}, memory=1 << 30)
    if job.spec.publish is not None:
        made += workload.publishing(job, INSTALLED)
    return [one["spec"]["template"] for one in made if one["kind"] == "Job"]


def admit(namespace: Namespace, template: Manifest) -> Wire:
    """The pod as it would be stored; raises RefusedError."""
    spec = dict(template["spec"])
    # It would have to exist, and that is asked first.
    spec.pop("priorityClassName", None)
    metadata = template.get("metadata", {}) | {"name": "pod"}
    body = {"metadata": metadata, "spec": spec}
    return namespace.kube.request("POST", namespace.path(PODS), body, dryRun="All", fieldValidation="Strict")


def test_the_standard_is_enforced(namespace: Namespace) -> None:
    [template, *_] = pods(manifest())
    del template["spec"]["securityContext"]["seccompProfile"]
    with pytest.raises(RefusedError, match='violates PodSecurity \\\\"restricted:latest'):
        admit(namespace, template)


def test_pods_that_have_everything_meet_it(namespace: Namespace) -> None:
    found = pods(manifest(**EVERYTHING))
    assert len(found) == 4
    for template in found:
        kept = admit(namespace, template)["spec"]["volumes"]
        assert [volume["name"] for volume in kept] == [v["name"] for v in template["spec"]["volumes"]]


@settings(SETTINGS, max_examples=SETTINGS.max_examples // 4)
@given(wire=jobs())
def test_so_do_those_of_any_job(namespace: Namespace, wire: Wire) -> None:
    for template in pods(wire):
        admit(namespace, template)


def test_and_the_operator_s_own(namespace: Namespace) -> None:
    admit(namespace, rendered("Deployment", **IMAGES)["spec"]["template"])
