"""A real Kubernetes API for the tests of this tier: etcd, API server and controller manager, but no nodes."""

from collections.abc import Iterator

import pytest

from clusters.local import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane of this session's own; `.kubeconfig` is the administrator's. Pods stay Pending in it."""
    with ControlPlane() as plane:
        yield plane
