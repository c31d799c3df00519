"""The operator gets along with the rights that its chart gives it, and starts only where it can work."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from cluster.chart import RELEASE, Manifest, every, manifests, one
from cluster.kube import CREATING, FINETUNEJOBS, PODS, SERVICES, Kube, Namespace, eventually
from cluster.operators import Operator
from clusters.local import ControlPlane
from world import OUTPUT, report

HOME = "default"
"""The operator's own namespace."""
ACCOUNT = f"system:serviceaccount:{HOME}:{RELEASE}"
ACCOUNTS = f"/api/v1/namespaces/{HOME}/serviceaccounts"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
# Every request is written down: who asks for what.
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata"}],
}


class Right(NamedTuple):
    """What a rule of a role is made of; the resource with its subresource."""

    verb: str
    group: str
    resource: str


def pod_groups(kube: Kube, group: str, version: str) -> None:
    """Install as much of another project's kind as the operator sees of it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    name = {"plural": "podgroups", "singular": "podgroup", "kind": "PodGroup", "listKind": "PodGroupList"}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # Groups of Kubernetes' own names are protected.
        "metadata": {
            "name": f"podgroups.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, experimental-only"},
        },
        "spec": {"group": group, "scope": "Namespaced", "names": name, "versions": [served]},
    }
    kube.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    eventually(lambda: kube.request("GET", f"/apis/{group}/{version}/podgroups"))


class Server(NamedTuple):
    """An API server, and what it writes down of all requests."""

    plane: ControlPlane
    audit: Path

    @property
    def requests(self) -> list[Manifest]:
        """Those of the operator's account, oldest first. A watch is told only when it ends."""
        events = (json.loads(line) for line in self.audit.read_text().splitlines())
        return [event for event in events if event["user"]["username"] == ACCOUNT and "objectRef" in event]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A control plane of this module's own: no other operator may do this one's work."""
    directory = tmp_path_factory.mktemp("audit")
    policy, log = directory / "policy.yaml", directory / "audit.log"
    policy.write_text(json.dumps(AUDIT))
    with ControlPlane(
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        # As on OpenShift: who owns an object with blockOwnerDeletion must be allowed to set its finalizers.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
    ) as plane:
        kube = Kube(plane.kubeconfig)
        for group in ("scheduling.x-k8s.io/v1alpha1", "scheduling.volcano.sh/v1beta1"):
            pod_groups(kube, *group.split("/"))
        yield Server(plane, log)


@pytest.fixture
def plane(server: Server) -> ControlPlane:
    return server.plane


@contextmanager
def granted(kube: Kube, rights: list[Manifest], directory: Path) -> Iterator[Path]:
    """A kubeconfig with the token of a service account that has the chart's rights, and no others."""
    places = {
        "ServiceAccount": ACCOUNTS,
        "ClusterRole": f"{RBAC}/clusterroles",
        "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
        "Role": f"{RBAC}/namespaces/{{}}/roles",
        "RoleBinding": f"{RBAC}/namespaces/{{}}/rolebindings",
    }
    made = []
    for kind, place in places.items():
        for manifest in every(rights, kind):
            path = place.format(manifest["metadata"].get("namespace"))
            kube.request("POST", path, manifest)
            made.append(f"{path}/{manifest['metadata']['name']}")
    answer = kube.request("POST", f"{ACCOUNTS}/{RELEASE}/token", {"spec": {"expirationSeconds": 3600}})
    content = yaml.safe_load(kube.kubeconfig.read_text())
    content["users"] = [{"name": RELEASE, "user": {"token": answer["status"]["token"]}}]
    for context in content["contexts"]:
        context["context"]["user"] = RELEASE
    file = directory / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    try:
        yield file
    finally:
        for path in made:
            kube.request("DELETE", path)


def test_without_the_crd_it_does_not_start_and_says_so(plane: ControlPlane, tmp_path: Path) -> None:
    operator = Operator(plane.kubeconfig, tmp_path)
    status, log = operator.run_to_its_end()
    assert status == 1
    assert "finetunejobs.finetune.dev is not installed" in log


def test_with_bad_settings_it_does_not_start_and_says_so(plane: ControlPlane, tmp_path: Path) -> None:
    operator = Operator(plane.kubeconfig, tmp_path)
    operator.environment["FINETUNE_REPORT_PORT"] = "many"
    status, log = operator.run_to_its_end()
    assert status == 1
    assert log == "finetune-operator: FINETUNE_REPORT_PORT must be a port between 1 and 65535, not 'many'\n"


def test_without_credentials_it_does_not_start_and_says_so(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "nowhere", tmp_path)
    status, log = operator.run_to_its_end()
    assert status == 1
    assert "finetune-operator: " in log.splitlines()[-1]


def live_with(operator: Operator, namespace: Namespace) -> None:
    """Have the operator do all that it ever does; nothing may be worth a warning."""
    operator.start()
    try:
        a_whole_life(namespace, operator)
    finally:
        assert operator.stop() == 0
    log = operator.log.read_text()
    assert "forbidden" not in log
    assert '"level": "warning"' not in log
    assert '"level": "error"' not in log


def test_the_rights_of_the_chart_suffice_and_each_is_used(server: Server, tmp_path: Path) -> None:
    kube = Kube(server.plane.kubeconfig)
    kube.install_crd()
    rights = manifests(HOME)
    with granted(kube, rights, tmp_path) as kubeconfig, kube.namespace() as namespace:
        live_with(Operator(kubeconfig, tmp_path), namespace)
    has = rights_in(one(rights, "ClusterRole")["rules"])

    def all_are_used() -> bool:
        # Which an admission plug-in asks about, and no request tells.
        assert has - used(server.requests) == {Right("update", "finetune.dev", "finetunejobs/finalizers")}
        return True

    eventually(all_are_used)


def test_with_rights_in_one_namespace_it_lives_there_and_leaves_others_alone(
    server: Server, tmp_path: Path
) -> None:
    kube = Kube(server.plane.kubeconfig)
    kube.install_crd()
    before = len(server.requests)
    with kube.namespace() as namespace, kube.namespace() as other:
        other.submit()
        rights = manifests(HOME, watchNamespaces=[namespace.name])
        with granted(kube, rights, tmp_path) as kubeconfig:
            operator = Operator(kubeconfig, tmp_path)
            operator.environment["FINETUNE_NAMESPACES"] = namespace.name
            live_with(operator, namespace)
        assert "phase" not in other.status()
        assert other.belongings() == []
    asked = [request["objectRef"] for request in server.requests[before:]]
    assert {what["namespace"] for what in asked if "namespace" in what} == {namespace.name}
    assert {what["resource"] for what in asked if "namespace" not in what} == {"tokenreviews"}


def test_a_pod_of_a_namespace_that_is_not_watched_may_not_report(server: Server, tmp_path: Path) -> None:
    kube = Kube(server.plane.kubeconfig)
    kube.install_crd()
    pod = {"metadata": {"name": "demo"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    with kube.namespace() as namespace, kube.namespace() as other:
        other.create(PODS, pod)
        rights = manifests(HOME, watchNamespaces=[namespace.name])
        with granted(kube, rights, tmp_path) as kubeconfig:
            operator = Operator(kubeconfig, tmp_path)
            operator.environment["FINETUNE_NAMESPACES"] = namespace.name
            operator.start()
            try:
                answer = operator.post(other.name, "demo", report(), token=other.token("demo"))
            finally:
                assert operator.stop() == 0
    assert answer == (403, {"error": f"the jobs of namespace {other.name} are not this operator's"})


def rights_in(rules: list[Manifest]) -> set[Right]:
    """What the rules of a role allow."""
    return {
        Right(verb, group, resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(requests: list[Manifest]) -> set[Right]:
    """The rights without which these requests had been refused."""
    found = set()
    for request in requests:
        what = request["objectRef"]
        resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
        found.add(Right(request["verb"], what.get("apiGroup", ""), resource))
        # A server-side apply is a patch, and a create where there was nothing.
        if request["verb"] == "patch" and request["responseStatus"]["code"] == 201:
            found.add(Right("create", what.get("apiGroup", ""), resource))
    return found


def a_whole_life(namespace: Namespace, operator: Operator) -> None:
    """Everything that the operator ever does."""
    namespace.begin("stuck")
    stuck = namespace.pods("stuck")
    for pod in stuck:
        namespace.set_pod(pod, "Pending", CREATING)
    namespace.warn(stuck[0], "FailedMount", 'MountVolume.SetUp failed for volume "runs"')
    namespace.begin("queued", scheduling={"queueName": "team"})
    namespace.in_phase("Queued", "queued")
    for scheduler in ("Coscheduling", "Volcano"):
        name = scheduler.lower()
        namespace.begin(name, scheduling={"podGroup": scheduler, "schedulerName": name})
        pods = namespace.pods(name)
        namespace.end_pod(pods[0], 0, report(1, 9, step=36, output=OUTPUT).to_termination_message())
        namespace.end_pod(pods[1], 0)
        namespace.in_phase("Succeeded", name)
    namespace.create(SERVICES, {"metadata": {"name": "demo-gang"}, "spec": {"ports": [{"port": 80}]}})
    namespace.begin()
    eventually(lambda: namespace.condition("Stalled")["reason"] == "NameConflict")
    namespace.delete(SERVICES, "demo-gang")
    for attempt in (1, 2):
        pods = namespace.pods(attempt=attempt)
        namespace.run_pods(pods)
        token = namespace.token(pods[0])
        assert operator.post(namespace.name, "demo", report(attempt), token=token)[0] == 200
        namespace.in_phase("Running")
        if attempt == 1:
            namespace.end_pod(pods[0], 200)
    namespace.end_pod(pods[0], 0, report(2, 9, step=36, output=OUTPUT).to_termination_message())
    namespace.end_pod(pods[1], 0)
    namespace.in_phase("Succeeded")
    eventually(lambda: "Succeeded" in namespace.events())
    namespace.begin("doomed")
    namespace.end_pod(namespace.pods("doomed")[0], 65)
    namespace.in_phase("Failed", "doomed")
    eventually(
        lambda: not namespace.all(PODS, labelSelector="finetune.dev/job=doomed,finetune.dev/attempt=1")
    )
    for name in ("demo", "doomed", "coscheduling", "volcano"):
        namespace.patch(FINETUNEJOBS, name, {"spec": {"ttlSecondsAfterFinished": 0}})
        eventually(partial(was_cleaned_up, namespace, name))
    eventually(lambda: namespace.condition("Progressing", "stuck")["reason"] == "FailedMount", seconds=45)


def was_cleaned_up(namespace: Namespace, name: str) -> bool:
    return "cleanupTime" in namespace.status(name) and not namespace.belongings(name)
