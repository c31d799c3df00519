"""What an administrator allows and fills in, by an operator that has it in a file, in a real API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.chart import every, manifests
from cluster.kube import CONFIGMAPS, FINETUNEJOBS, JOBS, PODS, Kube, Namespace, RefusedError, eventually
from cluster.operators import Operator
from cluster.test_operator_webhook import asked
from clusters.local import ControlPlane
from finetune_operator.policy_file import PolicyFile
from world import INLINE

Wire = dict[str, Any]

OPEN: Wire = {"dataset": INLINE, "storage": {}}
DEFAULTS: Wire = {
    "storageClaimName": "shared",
    "nodeSelector": {"pool": "training"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "value": "", "effect": "NoSchedule"}],
    "priorityClassName": "system-cluster-critical",
}

TRAINING_PODS: Wire = {
    "env": {"NCCL_IB_HCA": "mlx5"},
    "labels": {"example.com/cost-center": "ml"},
    "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma-a"},
    "runtimeClassName": "gpus",
    "resources": {"rdma/hca": 8},
}


class Administrator:
    """Who writes the policy's file of an operator."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set()

    def set(self, *images: str, **here: Wire) -> None:
        """Have this hold in all namespaces."""
        self.write({"trainerImages": list(images), "namespaces": {"*": here}})

    def write(self, content: Wire) -> None:
        """Put it in the file's place at once, as the kubelet does."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(content))
        fresh.replace(self._file)


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """A control plane of this module's own: the operator of all others knows no policy."""
    with ControlPlane() as plane:
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        yield kube


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def administrator(directory: Path) -> Administrator:
    return Administrator(directory / "policy.yaml")


@pytest.fixture(scope="module")
def operator(kube: Kube, directory: Path, administrator: Administrator) -> Iterator[Operator]:
    operator = Operator(kube.kubeconfig, directory)
    operator.environment["FINETUNE_POLICY_FILE"] = str(directory / "policy.yaml")
    operator.start()
    yield operator
    assert operator.stop() == 0, operator.log.read_text()


@pytest.fixture(autouse=True)
def nothing_set(operator: Operator, administrator: Administrator, namespace: Namespace) -> None:
    """Each test begins with a policy that matters to none of its jobs, and the operator knows that."""
    claim = f"of-{namespace.name}"
    administrator.set(defaults={"storageClaimName": claim})
    until_a_job_is(namespace, accepted=True, claim=claim, **OPEN)


def until_a_job_is(namespace: Namespace, *, accepted: bool, claim: str | None = None, **spec: Any) -> str:
    """Make such a job again and again, until it is accepted or refused, and has this claim; returns what is said."""

    def judged() -> list[str]:
        namespace.submit("probe", suspend=True, **spec)
        found = eventually(lambda: namespace.condition("Accepted", "probe"))
        has = namespace.status("probe").get("defaults", {}).get("storageClaimName")
        namespace.delete(FINETUNEJOBS, "probe")
        return [found["message"]] if (found["status"], has) == (str(accepted), claim) else []

    [message] = eventually(judged, seconds=60)
    return message


def test_what_a_job_leaves_open_arrives_in_its_pods(
    namespace: Namespace, administrator: Administrator
) -> None:
    administrator.set(defaults=DEFAULTS)
    until_a_job_is(namespace, accepted=True, claim="shared", **OPEN)
    namespace.submit(**OPEN, scheduling={"nodeSelector": {"disk": "fast"}})
    pod = namespace.get(PODS, namespace.pods()[0])["spec"]
    assert pod["nodeSelector"] == {"pool": "training", "disk": "fast"}
    assert "gpu" in [toleration.get("key") for toleration in pod["tolerations"]]
    assert pod["priorityClassName"] == "system-cluster-critical"
    [storage] = [volume for volume in pod["volumes"] if volume["name"] == "storage"]
    assert storage["persistentVolumeClaim"]["claimName"] == "shared"
    assert namespace.status()["defaults"] == DEFAULTS
    assert namespace.job()["spec"]["storage"] == {}
    # What the policy says now matters to others.
    administrator.set(defaults={"storageClaimName": "elsewhere"})
    until_a_job_is(namespace, accepted=True, claim="elsewhere", **OPEN)
    namespace.run_pods(namespace.pods())
    namespace.end_pod(namespace.pods()[0], 200)
    pod = namespace.get(PODS, namespace.pods(attempt=2)[0])["spec"]
    assert pod["nodeSelector"] == {"pool": "training", "disk": "fast"}
    assert "shared" in str(pod["volumes"])
    assert "elsewhere" not in str(pod["volumes"])


def test_a_default_queue_is_where_the_gang_waits(namespace: Namespace, administrator: Administrator) -> None:
    administrator.set(defaults=DEFAULTS | {"queueName": "team"})
    until_a_job_is(namespace, accepted=True, claim="shared", **OPEN)
    namespace.submit(**OPEN)
    namespace.in_phase("Queued")
    job = namespace.get(JOBS, "demo-1")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["suspend"] is True


def test_a_job_over_the_limit_gets_no_pod_until_it_is_raised(
    namespace: Namespace, administrator: Administrator
) -> None:
    administrator.set(limits={"maxNodes": 1})
    until_a_job_is(namespace, accepted=False)
    namespace.submit()
    namespace.in_phase("Failed")
    accepted = namespace.condition("Accepted")
    assert accepted["status"] == "False"
    assert accepted["message"] == (
        f"spec.resources.nodes: 2 is more than the administrator allows in namespace {namespace.name}: at most 1 "
        "(maxNodes)"
    )
    assert namespace.belongings() == []
    administrator.set(limits={"maxNodes": 2})
    # It is looked at again by itself, too, a minute later.
    until_a_job_is(namespace, accepted=True)
    namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"look": "again"}}})
    namespace.in_phase("Preparing")


def test_a_limit_that_is_lowered_ends_nothing_but_lets_nothing_go_on(
    namespace: Namespace, administrator: Administrator
) -> None:
    namespace.submit(dataset=INLINE)
    namespace.run_pods(namespace.pods())
    administrator.set(limits={"maxNodes": 1})
    until_a_job_is(namespace, accepted=False)
    namespace.end_pod(namespace.pods()[0], 200)
    namespace.pods(attempt=2)
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"suspend": True}})
    namespace.in_phase("Suspended")
    assert namespace.condition("Accepted")["status"] == "True"
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"suspend": False}})
    eventually(lambda: namespace.condition("Accepted")["status"] == "False")
    assert namespace.status()["phase"] == "Suspended"
    assert namespace.condition("Suspended")["status"] == "True"
    namespace.patch(FINETUNEJOBS, "demo", {"spec": {"resources": {"nodes": 1}}})
    assert len(namespace.pods(attempt=3, count=1)) == 1
    assert namespace.condition("Accepted")["status"] == "True"


def test_an_image_is_used_as_long_as_it_is_allowed(
    namespace: Namespace, administrator: Administrator
) -> None:
    image = "registry.invalid/team/trainer:7"
    named: Wire = {"dataset": INLINE, "trainerImage": image}
    said = until_a_job_is(namespace, accepted=False, **named)
    assert said == (
        f"spec.trainerImage: {image} is not allowed: the administrator allows registry.invalid/trainer:1. Name one of "
        "these, or none"
    )
    administrator.set("registry.invalid/team/trainer:*")
    until_a_job_is(namespace, accepted=True, **named)
    namespace.submit(**named)
    pods = namespace.pods()
    assert namespace.get(PODS, pods[0])["spec"]["containers"][0]["image"] == image
    namespace.run_pods(pods)
    administrator.set()
    until_a_job_is(namespace, accepted=False, **named)
    assert namespace.pods() == pods
    namespace.end_pod(pods[0], 200)
    eventually(lambda: namespace.condition("Stalled")["status"] == "True", seconds=60)
    stalled = namespace.condition("Stalled")
    assert (stalled["reason"], stalled["message"]) == ("Refused", said)
    assert not namespace.all(JOBS)
    administrator.set(image)
    namespace.pods(attempt=2)


def test_the_webhook_refuses_at_once_what_the_policy_does(
    kube: Kube, operator: Operator, namespace: Namespace, administrator: Administrator
) -> None:
    administrator.set(limits={"maxNodes": 1})
    until_a_job_is(namespace, accepted=False)
    with asked(kube, operator):
        with pytest.raises(RefusedError, match=r"at most 1 \(maxNodes\)"):
            namespace.submit()
        with pytest.raises(RefusedError, match=r"spec\.trainerImage: evil:1 is not allowed"):
            namespace.submit(resources={"nodes": 1, "gpusPerNode": 0}, trainerImage="evil:1")
        namespace.submit(resources={"nodes": 1, "gpusPerNode": 0}, suspend=True)
        with pytest.raises(RefusedError, match=r"spec\.resources\.nodes: 3 is more than"):
            namespace.patch(FINETUNEJOBS, "demo", {"spec": {"resources": {"nodes": 3}}})
        namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"team": "a"}}})


def test_a_policy_that_cannot_be_used_is_not_taken_up_and_starts_no_operator(
    kube: Kube, operator: Operator, namespace: Namespace, administrator: Administrator, tmp_path: Path
) -> None:
    administrator.set(limits={"maxNodes": 1})
    until_a_job_is(namespace, accepted=False)
    administrator.set(limits={"maxNodes": "many"})
    told = "namespaces.*.limits.maxNodes: "
    eventually(
        lambda: (
            f"the policy stays as it was: {operator.environment['FINETUNE_POLICY_FILE']}: {told}"
            in log(operator)
        )
    )
    until_a_job_is(namespace, accepted=False)
    another = Operator(kube.kubeconfig, tmp_path)
    another.environment["FINETUNE_POLICY_FILE"] = operator.environment["FINETUNE_POLICY_FILE"]
    status, said = another.run_to_its_end()
    assert status == 1
    assert said.startswith("finetune-operator: ")
    assert told in said


def test_what_pods_get_besides_arrives_in_those_that_are_made_from_then_on(
    kube: Kube, namespace: Namespace, administrator: Administrator
) -> None:
    defaults = {"storageClaimName": "shared"}
    runtime_class = {"metadata": {"name": TRAINING_PODS["runtimeClassName"]}, "handler": "nvidia"}
    kube.request("POST", "/apis/node.k8s.io/v1/runtimeclasses", runtime_class)
    administrator.set(defaults=defaults, pods={"env": {"A": "b"}}, trainingPods=TRAINING_PODS)
    until_a_job_is(namespace, accepted=True, claim="shared", **OPEN)
    namespace.submit(**OPEN)
    pod = namespace.get(PODS, namespace.pods()[0])
    [trainer] = pod["spec"]["containers"]
    assert {"name": "A", "value": "b"} in trainer["env"]
    assert {"name": "NCCL_IB_HCA", "value": "mlx5"} in trainer["env"]
    assert trainer["resources"] == {"limits": {"rdma/hca": "8"}, "requests": {"rdma/hca": "8"}}
    assert pod["spec"]["runtimeClassName"] == "gpus"
    for field in ("labels", "annotations"):
        assert TRAINING_PODS[field].items() <= pod["metadata"][field].items()
    # What the policy says now is for pods to come.
    administrator.set(defaults={"storageClaimName": "other"}, pods={"env": {"A": "c"}})
    until_a_job_is(namespace, accepted=True, claim="other", **OPEN)
    namespace.run_pods(namespace.pods())
    assert namespace.get(PODS, namespace.pods()[0])["metadata"]["uid"] == pod["metadata"]["uid"]
    namespace.end_pod(namespace.pods()[0], 200)
    pod = namespace.get(PODS, namespace.pods(attempt=2)[0])
    [trainer] = pod["spec"]["containers"]
    assert {"name": "A", "value": "c"} in trainer["env"]
    assert "runtimeClassName" not in pod["spec"]
    assert trainer["resources"] == {}


def log(operator: Operator) -> str:
    return operator.log.read_text()


def test_the_operator_understands_what_the_chart_writes(
    kube: Kube, namespace: Namespace, tmp_path: Path
) -> None:
    here = {
        "defaults": DEFAULTS,
        "limits": {"maxNodes": 4, "maxGpus": 32},
        "pods": {"env": {"A": "b"}, "labels": {"a": "b"}, "annotations": {"a": "b"}},
        "trainingPods": TRAINING_PODS,
    }
    values: Wire = {
        "trainer": {
            "image": {"repository": "registry.example/trainer"},
            "allowedImages": ["registry.example/ml/trainer:*"],
        },
        "namespaces": {"team-a": here, "*": {}},
    }
    [config] = [
        one
        for one in every(manifests(namespace.name, **values), "ConfigMap")
        if one["metadata"]["name"].endswith("-policy")
    ]
    made = namespace.create(CONFIGMAPS, config)
    file = tmp_path / "policy.yaml"
    file.write_text(made["data"]["policy.yaml"])
    policy = PolicyFile(file, trainer_image="own:1").current()
    assert policy.allows("registry.example/ml/trainer:9")
    assert policy.of("team-a").to_wire() == here
    assert policy.of("team-b").to_wire() == policy.of("team-c").to_wire()
