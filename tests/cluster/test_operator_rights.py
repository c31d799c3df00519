"""The operator gets along with the rights that its chart gives it, and starts only where it can work."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from cluster.chart import rendered
from cluster.kube import FINETUNEJOBS, PODS, SERVICES, Kube, Namespace, eventually
from cluster.operators import Operator
from clusters.local import ControlPlane
from world import OUTPUT, report

ACCOUNT = "finetune-operator"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of this module's own: no other operator may do this one's work."""
    with ControlPlane() as plane:
        yield plane


def bound_kubeconfig(kube: Kube, directory: Path) -> Path:
    """A kubeconfig with the token of a service account that has the chart's rights, and no others."""
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    kube.request("POST", accounts, {"metadata": {"name": ACCOUNT}})
    kube.request(
        "POST",
        f"{rbac}/clusterroles",
        {"metadata": {"name": ACCOUNT}, "rules": rendered("ClusterRole")["rules"]},
    )
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT}
    binding = {"metadata": {"name": ACCOUNT}, "roleRef": reference, "subjects": [subject]}
    kube.request("POST", f"{rbac}/clusterrolebindings", binding)
    answer = kube.request("POST", f"{accounts}/{ACCOUNT}/token", {"spec": {"expirationSeconds": 3600}})
    content = yaml.safe_load(kube.kubeconfig.read_text())
    content["users"] = [{"name": ACCOUNT, "user": {"token": answer["status"]["token"]}}]
    for context in content["contexts"]:
        context["context"]["user"] = ACCOUNT
    file = directory / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return file


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


def test_the_rights_of_the_chart_suffice(plane: ControlPlane, tmp_path: Path) -> None:
    kube = Kube(plane.kubeconfig)
    kube.install_crd()
    operator = Operator(bound_kubeconfig(kube, tmp_path), tmp_path)
    operator.start()
    with kube.namespace() as namespace:
        try:
            a_whole_life(namespace, operator)
        finally:
            assert operator.stop() == 0
    log = operator.log.read_text()
    assert "forbidden" not in log
    assert '"level": "warning"' not in log
    assert '"level": "error"' not in log


def a_whole_life(namespace: Namespace, operator: Operator) -> None:
    """Everything that the operator ever does."""
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
    for name in ("demo", "doomed"):
        namespace.patch(FINETUNEJOBS, name, {"spec": {"ttlSecondsAfterFinished": 0}})
        eventually(partial(was_cleaned_up, namespace, name))


def was_cleaned_up(namespace: Namespace, name: str) -> bool:
    return "cleanupTime" in namespace.status(name) and not namespace.belongings(name)
