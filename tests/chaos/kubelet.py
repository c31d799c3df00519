"""The node that the pods of a story run on: their kubelet, their trainers, and what befalls them."""

import time
from collections.abc import Sequence
from contextlib import suppress

from chaos.invariants import OVER
from cluster.kube import PODS, Namespace, Wire
from cluster.operators import Operator
from finetune_api import names
from finetune_api.report import Stage
from world import OUTPUT, found, report


class Kubelet:
    """Nothing happens by itself: whoever tells the story calls it again and again."""

    def __init__(self, namespace: Namespace, node: str, grace_seconds: float) -> None:
        """Pods that are to go live on for so many seconds."""
        self._namespace = namespace
        self._node = node
        self._grace_seconds = grace_seconds
        self._asked_to_go: dict[str, float] = {}

    def alive(self, job: str) -> list[Wire]:
        """The pods of a FineTuneJob that can run and were not asked to go, by name; those of a gang by rank."""
        pods = self._namespace.all(PODS, labelSelector=f"{names.LABEL_JOB}={job}")
        return sorted(
            (
                pod
                for pod in pods
                if pod["status"]["phase"] not in OVER and "deletionTimestamp" not in pod["metadata"]
            ),
            key=lambda pod: str(pod["metadata"]["name"]),
        )

    def run(self, job: str) -> None:
        """Have its pods on the node, and start their containers."""
        for pod in self.alive(job):
            name = pod["metadata"]["name"]
            if "nodeName" not in pod["spec"]:
                binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": self._node}}
                self._namespace.kube.request("POST", self._namespace.path(PODS, name) + "/binding", binding)
            self._namespace.run_pods([name])

    def tell(self, job: str, step: int, operator: Operator) -> str | None:
        """The first pod of its gang POSTs that it has done so many steps; returns its token."""
        for pod in self.alive(job)[:1]:
            if attempt_of(pod) < 1 or pod["status"]["phase"] != "Running":
                continue
            token = self._namespace.token(pod["metadata"]["name"])
            # The operator may be away: the trainer would try again, and tell more then.
            with suppress(OSError):
                operator.post(self._namespace.name, job, report(attempt_of(pod), step, step), token=token)
            return token
        return None

    def end(self, job: str, code: int, reason: str = "") -> None:
        """The container of its last pod ends; with 0, those of all pods, and the first leaves its last words."""
        alive = self.alive(job)
        for rank, pod in enumerate(alive if code == 0 else alive[-1:]):
            attempt, message = attempt_of(pod), ""
            if code == 0 and rank == 0:
                last = report(attempt, 99, step=36, stage=Stage.FINISHED, output=OUTPUT)
                message = (found() if attempt == names.PREPARATION else last).to_termination_message()
            self._namespace.end_pod(pod["metadata"]["name"], code, message, reason)

    def disrupt(self, job: str) -> None:
        """The cluster takes its last pod away, and says so."""
        for pod in self.alive(job)[-1:]:
            condition = {"type": "DisruptionTarget", "status": "True", "message": "a node goes"}
            state = {"terminated": {"exitCode": 143}}
            self._namespace.set_pod(pod["metadata"]["name"], "Failed", state, conditions=[condition])

    def vanish(self, job: str) -> None:
        """Its first pod is deleted by force."""
        for pod in self.alive(job)[:1]:
            self._namespace.delete(PODS, pod["metadata"]["name"], gracePeriodSeconds=0)

    def evict(self, job: str) -> None:
        """Its first pod is asked to go."""
        for pod in self.alive(job)[:1]:
            name = pod["metadata"]["name"]
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
            self._namespace.kube.request("POST", self._namespace.path(PODS, name) + "/eviction", eviction)

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


def attempt_of(pod: Wire) -> int:
    """Of which attempt, or which other step, a pod is."""
    attempt = names.labelled_attempt(pod["metadata"]["labels"][names.LABEL_ATTEMPT])
    assert attempt is not None
    return attempt


def is_preparing(pods: Sequence[Wire]) -> bool:
    """Whether these are pods, and prepare data."""
    return any(attempt_of(pod) == names.PREPARATION for pod in pods)
