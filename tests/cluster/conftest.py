"""A real Kubernetes API for the tests of this tier: etcd, API server and controller manager, but no nodes."""

import uuid
from collections.abc import Iterator

import pytest
import yaml

from cluster.kube import FINETUNEJOBS, Kube, Namespace, eventually
from cluster.operators import Operator
from clusters.local import ControlPlane
from finetune_api.crd import custom_resource_definition


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane of this session's own; `.kubeconfig` is the administrator's. Pods stay Pending in it."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def kube(control_plane: ControlPlane) -> Kube:
    """The API server, with the CRD of this checkout installed."""
    kube = Kube(control_plane.kubeconfig)
    kube.request(
        "PATCH",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev",
        # As text, for the request's body is JSON and an apply patch is YAML: one is the other.
        yaml.safe_load(yaml.safe_dump(custom_resource_definition())),
        "application/apply-patch+yaml",
        fieldManager="tests",
        fieldValidation="Strict",
    )
    eventually(lambda: kube.request("GET", "/apis/finetune.dev/v1alpha1/finetunejobs"))
    return kube


@pytest.fixture
def namespace(kube: Kube) -> Iterator[Namespace]:
    """A namespace of this test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    eventually(lambda: kube.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default"))
    made = Namespace(kube, name)
    yield made
    # First, for the namespace itself is long in going, and the operator would work on.
    kube.request("DELETE", made.path(FINETUNEJOBS))
    kube.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def operator(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator, running; whoever kills it starts it again."""
    operator = Operator(kube.kubeconfig, tmp_path_factory.mktemp("operator"))
    operator.start()
    yield operator
    assert operator.stop() == 0, operator.log.read_text()
