"""Queues of Kueue, as an administrator would set them up."""

from typing import Any

Manifest = dict[str, Any]
API_VERSION = "kueue.x-k8s.io/v1beta2"


def queue(name: str, *, cpu: str, memory: str, namespace: str) -> list[Manifest]:
    """A LocalQueue of a namespace, and the quota behind it: who is more important takes it from others."""
    quota = [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": memory}]
    return [
        {"apiVersion": API_VERSION, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {
            "apiVersion": API_VERSION,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [
                    {
                        "coveredResources": ["cpu", "memory"],
                        "flavors": [{"name": name, "resources": quota}],
                    }
                ],
            },
        },
        {
            "apiVersion": API_VERSION,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterQueue": name},
        },
    ]


def priority(name: str, value: int) -> Manifest:
    """A WorkloadPriorityClass; what names none has priority 0."""
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkloadPriorityClass",
        "metadata": {"name": name},
        "value": value,
    }
