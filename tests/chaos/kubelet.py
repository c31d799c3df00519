"""The kubelet of the node that pods of a story run on: those that are to go live on for their grace period."""

import time
from collections.abc import Sequence

from cluster.kube import PODS, Namespace, Wire


class Kubelet:
    """Nothing happens by itself: whoever tells the story calls it again and again."""

    def __init__(self, namespace: Namespace, node: str, grace_seconds: float) -> None:
        self._namespace = namespace
        self._node = node
        self._grace_seconds = grace_seconds
        self._asked_to_go: dict[str, float] = {}

    def run(self, pods: Sequence[Wire]) -> None:
        """Have pods on the node, and start their containers."""
        for pod in pods:
            name = pod["metadata"]["name"]
            if "nodeName" not in pod["spec"]:
                binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": self._node}}
                self._namespace.kube.request("POST", self._namespace.path(PODS, name) + "/binding", binding)
            self._namespace.run_pods([name])

    def reap(self) -> bool:
        """Remove pods that have had their time; says whether some are left that are to go."""
        going = [
            pod
            for pod in self._namespace.all(PODS, fieldSelector=f"spec.nodeName={self._node}")
            if "deletionTimestamp" in pod["metadata"]
        ]
        now = time.monotonic()
        for pod in going:
            since = self._asked_to_go.setdefault(pod["metadata"]["uid"], now)
            if now - since >= self._grace_seconds:
                self._namespace.delete(PODS, pod["metadata"]["name"], gracePeriodSeconds=0)
        return bool(going)
