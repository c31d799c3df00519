"""A cluster with the operator of this checkout in it, and namespaces for the tests that ask for one."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deploy import deploy
from e2e.jobs import manifest, save_inputs
from e2e.namespace import Namespace
from e2e.object_store import ObjectStore, object_store


@pytest.fixture(scope="session")
def operator() -> None:
    """The operator of this checkout, running in a cluster."""
    deploy()


@pytest.fixture(scope="module")
def namespace(operator: None) -> Iterator[Namespace]:
    """A namespace that enforces the Restricted Pod Security Standard, gone after the module's tests."""
    with _made() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def neighbour(operator: None) -> Iterator[Namespace]:
    """Another namespace, gone after the module's tests."""
    with _made() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def store(operator: None) -> Iterator[ObjectStore]:
    """An S3 server that pods can reach."""
    with _made() as namespace, object_store(namespace) as store:
        yield store


@pytest.fixture(scope="session")
def long_job() -> dict[str, Any]:
    """A job of two nodes that is long enough to be disturbed, and saves its state often."""
    job = manifest("undisturbed", nodes=2, numEpochs=30, effectiveBatchSize=20)
    job["spec"]["checkpoints"] = {"everySteps": 8}
    return job


@pytest.fixture(scope="session")
def undisturbed(operator: None, long_job: dict[str, Any]) -> Iterator[Namespace]:
    """A namespace in which that job is under way and left alone: what comes of it is what must come of others."""
    with _made() as namespace:
        save_inputs(namespace, samples=240)
        namespace.apply(long_job)
        yield namespace


@contextmanager
def _made() -> Iterator[Namespace]:
    made = Namespace(f"e2e-{uuid.uuid4().hex[:8]}")
    made.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": made.name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    yield made
    made.kubectl("delete", "namespace", made.name, "--wait=true", "--timeout=120s")
