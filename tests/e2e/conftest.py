"""A cluster with the operator of this checkout in it, and namespaces for the tests that ask for one."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from deploy import deploy
from e2e.jobs import manifest, save_inputs
from e2e.namespace import Namespace, kubectl
from e2e.object_store import ObjectStore, object_store

MakeNamespace = Callable[[], AbstractContextManager[Namespace]]


@pytest.fixture(scope="session")
def operator() -> None:
    """The operator of this checkout, running in a cluster."""
    deploy()


@pytest.fixture(scope="session")
def make_namespace(operator: None) -> Iterator[MakeNamespace]:
    """Makes namespaces that enforce the Restricted Pod Security Standard. In the end, all of them have to go."""
    names = []

    @contextmanager
    def make() -> Iterator[Namespace]:
        made = Namespace(f"e2e-{uuid.uuid4().hex[:8]}")
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        made.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.name, "labels": labels}}
        )
        names.append(made.name)
        yield made
        # It takes its time for that while others are tested.
        made.kubectl("delete", "namespace", made.name, "--wait=false")

    yield make
    for name in names:
        subprocess.run(
            [*kubectl(), "wait", f"namespace/{name}", "--for=delete", "--timeout=120s"], check=True
        )


@pytest.fixture(scope="module")
def namespace(make_namespace: MakeNamespace) -> Iterator[Namespace]:
    """A namespace of the module's own."""
    with make_namespace() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def neighbour(make_namespace: MakeNamespace) -> Iterator[Namespace]:
    """Another namespace of the module's own."""
    with make_namespace() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def store(make_namespace: MakeNamespace) -> Iterator[ObjectStore]:
    """An S3 server that pods can reach."""
    with make_namespace() as namespace, object_store(namespace) as store:
        yield store


@pytest.fixture(scope="session")
def long_job() -> dict[str, Any]:
    """A job of two nodes that is long enough to be disturbed, and saves its state often."""
    job = manifest("undisturbed", nodes=2, numEpochs=30, effectiveBatchSize=20)
    job["spec"]["checkpoints"] = {"everySteps": 8}
    return job


@pytest.fixture(scope="session")
def undisturbed(make_namespace: MakeNamespace, long_job: dict[str, Any]) -> Iterator[Namespace]:
    """A namespace in which that job is under way and left alone: what comes of it is what must come of others."""
    with make_namespace() as namespace:
        save_inputs(namespace, samples=240)
        namespace.apply(long_job)
        yield namespace
