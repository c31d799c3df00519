"""Where the scheduler of Kubernetes puts the pods of a gang that is to stay together."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.kube import Kube, Namespace, eventually
from cluster.scheduling import ZONE, bind_claims, nodes, scheduler, zones_of
from clusters.local import ControlPlane
from world import INLINE

pytestmark = pytest.mark.usefixtures("operator", "scheduled")


@pytest.fixture(scope="module")
def scheduled(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The scheduler, while this module's tests run."""
    with scheduler(control_plane.kubeconfig, tmp_path_factory.mktemp("scheduler")):
        yield


def submit(namespace: Namespace, *, together: bool) -> None:
    """A gang of two pods of one CPU each."""
    bind_claims(namespace, "models", "data", "runs")
    resources: dict[str, Any] = {"nodes": 2, "gpusPerNode": 0, "requests": {"cpu": "1", "memory": "1Gi"}}
    scheduling = {"topologyKey": ZONE} if together else {}
    namespace.submit(dataset=INLINE, resources=resources, scheduling=scheduling)


@pytest.mark.parametrize(("together", "zones"), [(True, 1), (False, 2)])
def test_a_gang_with_a_topology_key_stays_in_one_zone(
    namespace: Namespace, kube: Kube, together: bool, zones: int
) -> None:
    # Each zone has room for both. Without a key, the second pod goes where nobody is yet.
    with nodes(kube, {"east": [2], "west": [2]}):
        submit(namespace, together=together)
        eventually(lambda: len(zones_of(namespace)) == 2)
        assert len(set(zones_of(namespace))) == zones


def test_where_no_zone_has_room_for_all_of_it_the_gang_waits_and_says_why(
    namespace: Namespace, kube: Kube
) -> None:
    with nodes(kube, {"east": [1], "west": [1]}):
        submit(namespace, together=True)

        def told() -> bool:
            ready = namespace.condition("Ready")
            words = "didn't match pod affinity rules"
            assert ready["reason"] == "Unschedulable", ready
            assert words in ready["message"], ready
            return True

        eventually(told)
        assert namespace.status()["phase"] == "Starting"
        # Without a scheduler that knows gangs, one pod holds its node meanwhile.
        assert len(zones_of(namespace)) == 1
