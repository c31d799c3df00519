"""A control plane for each process that runs these tests, and operators that may be broken."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos.operators import ChaosOperator, Tuning
from cluster.kube import Kube, Namespace
from clusters.local import ControlPlane

MakeOperator = Callable[..., ChaosOperator]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane whose only operators are those of the tests, each for the namespace of its test."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def kube(control_plane: ControlPlane) -> Kube:
    """The API server, with the CRD of this checkout installed; nothing that is asked of it here fails on purpose."""
    kube = Kube(control_plane.kubeconfig)
    kube.install_crd()
    return kube


@pytest.fixture
def namespace(kube: Kube) -> Iterator[Namespace]:
    """A namespace of this test's own."""
    with kube.namespace() as made:
        yield made


@pytest.fixture
def make_operator(kube: Kube, namespace: Namespace, tmp_path: Path) -> Iterator[MakeOperator]:
    """Makes operators for the test's namespace, not started yet, and stops them in the end."""
    made: list[ChaosOperator] = []

    def make(**tuning: Any) -> ChaosOperator:
        directory = tmp_path / f"operator-{len(made)}"
        operator = ChaosOperator(kube, directory, namespace.name, tuning=Tuning(**tuning))
        made.append(operator)
        return operator

    with ExitStack() as ending:
        yield make
        for operator in made:
            ending.callback(operator.stop)


@pytest.fixture
def operator(make_operator: MakeOperator) -> ChaosOperator:
    """The operator of the test's namespace, not started yet."""
    return make_operator()
