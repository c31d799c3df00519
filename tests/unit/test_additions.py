"""What an administrator has added to the pods of a namespace."""

from typing import Any

import pytest

from finetune_api.spec import FineTuneJob
from finetune_operator.objects.workload import attempt, merging, preparation, publishing
from finetune_operator.tenancy import Policy, installed
from world import INSTALLATION, MERGES, PUBLISH, submitted

Wire = dict[str, Any]

PODS: Wire = {
    "env": {"HTTPS_PROXY": "http://proxy.example:3128", "NCCL_DEBUG": "WARN"},
    "labels": {"example.com/cost-center": "ml", "sidecar.istio.io/inject": "false"},
    "annotations": {"example.com/scrape": "no", "example.com/owner": "platform"},
}
TRAINING: Wire = {
    "env": {"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "INFO"},
    "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma-a,rdma-b", "example.com/owner": "training"},
    "runtimeClassName": "nvidia",
    "resources": {"rdma/hca": 2},
}


def job(**spec: Any) -> FineTuneJob:
    made = submitted(**spec).job
    assert made is not None
    return made


def template(made: FineTuneJob | None = None, step: str = "attempt", **here: Wire) -> Wire:
    """The template of the pods of a step, in a namespace that has this."""
    policy = Policy.model_validate({"namespaces": {"team": here}})
    installation = installed(INSTALLATION, policy, "team")
    made = made or job()
    manifests = {
        "attempt": lambda: attempt(made, 1, installation, prepared={}),
        "preparation": lambda: preparation(made, installation),
        "merging": lambda: merging(job(**MERGES), installation, prepared={}, memory=None),
        "publishing": lambda: publishing(job(**PUBLISH), installation),
    }[step]()
    found: Wire = manifests[-1]["spec"]["template"]
    return found


def container(template: Wire) -> Wire:
    [found] = template["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def variables(template: Wire) -> dict[str, Any]:
    entries = container(template)["env"]
    found = {one["name"]: one.get("value") for one in entries}
    assert len(found) == len(entries), "one hides another"
    return found


@pytest.mark.parametrize("step", ["preparation", "merging", "publishing"])
def test_pods_that_are_alone_at_work_get_what_all_get(step: str) -> None:
    before, after = template(step=step), template(step=step, pods=PODS, trainingPods=TRAINING)
    assert variables(after) == PODS["env"] | variables(before)
    assert after["metadata"] == {
        "labels": PODS["labels"] | before["metadata"]["labels"],
        "annotations": PODS["annotations"],
    }
    # Nothing else has changed.
    container(after)["env"] = container(before)["env"]
    assert after["spec"] == before["spec"]


def test_pods_that_train_get_both_and_rather_their_own() -> None:
    before, after = template(), template(pods=PODS, trainingPods=TRAINING)
    assert variables(after) == variables(before) | PODS["env"] | TRAINING["env"]
    assert after["metadata"] == {
        "labels": PODS["labels"] | before["metadata"]["labels"],
        "annotations": PODS["annotations"] | TRAINING["annotations"],
    }
    assert after["spec"]["runtimeClassName"] == "nvidia"
    assert container(after)["resources"] == {"limits": {"rdma/hca": "2"}}
    assert template(trainingPods=TRAINING)["metadata"]["annotations"] == TRAINING["annotations"]


def test_what_a_pod_has_of_its_own_stays() -> None:
    gpus = {"nodes": 1, "gpusPerNode": 8, "requests": {"memory": "64Gi"}}
    tracked = {"mlflow": {"secretRef": {"name": "tracking"}}}
    grouped = {"schedulerName": "volcano", "podGroup": "Volcano"}
    made = job(resources=gpus, tracking=tracked, scheduling=grouped)
    added = {
        "env": {"MLFLOW_TRACKING_URI": "http://elsewhere", "NCCL_DEBUG": "INFO"},
        "annotations": {"scheduling.k8s.io/group-name": "another", "a": "b"},
        "resources": {"nvidia.com/gpu": 1, "rdma/hca": 1},
    }
    before, after = template(made), template(made, trainingPods=added)
    assert variables(after) == variables(before) | {"NCCL_DEBUG": "INFO"}
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"] | {"a": "b"}
    assert container(after)["resources"]["limits"] == {
        "nvidia.com/gpu": "8",
        "memory": "64Gi",
        "rdma/hca": "1",
    }


def test_where_nothing_is_set_nothing_is_added() -> None:
    own = attempt(job(), 1, INSTALLATION, prepared={})[-1]["spec"]["template"]
    assert template() == template(pods={}, trainingPods={}) == own
    assert template(pods=PODS, trainingPods=TRAINING) != own


def test_what_is_set_for_a_namespace_is_for_that_one() -> None:
    policy = Policy.model_validate(
        {"namespaces": {"other": {"pods": PODS}, "*": {"pods": {"env": {"A": "b"}}}}}
    )
    assert installed(INSTALLATION, policy, "other").training_pods.env == PODS["env"]
    assert installed(INSTALLATION, policy, "team").training_pods.env == {"A": "b"}
