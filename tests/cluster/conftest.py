"""A real Kubernetes API for the tests of this tier: etcd, API server and controller manager, but no nodes."""

from collections.abc import Iterator

import pytest

from cluster.answers import ApiServer
from cluster.chart import Manifest, manifests
from cluster.helm import NAMESPACE, Tools, succeeded
from cluster.kube import Kube, Namespace
from cluster.operators import Operator
from clusters.local import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane of this session's own; `.kubeconfig` is the administrator's. Pods stay Pending in it."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def kube(control_plane: ControlPlane) -> Kube:
    """The API server, with the CRD of this checkout installed."""
    kube = Kube(control_plane.kubeconfig)
    kube.install_crd()
    return kube


@pytest.fixture(scope="session")
def api_server(kube: Kube) -> ApiServer:
    """The same API server, for questions that change nothing."""
    return ApiServer(kube)


@pytest.fixture
def namespace(kube: Kube) -> Iterator[Namespace]:
    """A namespace of this test's own."""
    with kube.namespace() as made:
        yield made


@pytest.fixture(scope="session")
def lonely() -> Iterator[Kube]:
    """An API server that no operator watches but those of a test itself."""
    with ControlPlane() as plane:
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        yield kube


@pytest.fixture(scope="session")
def operator(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator, running; whoever kills it starts it again."""
    operator = Operator(kube.kubeconfig, tmp_path_factory.mktemp("operator"))
    operator.start()
    yield operator
    assert operator.stop() == 0, operator.log.read_text()


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    """Helm and kubectl at a control plane of this module alone: in a shared one, the CRD would not be Helm's."""
    with ControlPlane() as plane:
        made = Tools(plane)
        made.kubectl("create", "namespace", NAMESPACE)
        made.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield made


@pytest.fixture(scope="module")
def installed(tools: Tools) -> Tools:
    """With the chart installed."""
    succeeded(tools.helm("install"))
    return tools


@pytest.fixture(scope="session")
def defaults() -> list[Manifest]:
    """The chart as it would be installed first."""
    return manifests(NAMESPACE)
