"""Faults, made to happen."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from benchmarks.soak.place import NAMESPACE, Place, RefusedError, Wire
from benchmarks.soak.plan import Fault, FaultPlan
from cluster.kube import CONFIGMAPS, JOBS, NETWORK_POLICIES, PODS, SERVICES
from finetune_api import names

T = TypeVar("T")

_COMPONENTS = {
    Fault.KILL_KUBELET: "kubelet",
    Fault.KILL_CONTAINERD: "containerd",
    Fault.KILL_API_SERVER: "apiserver",
    Fault.KILL_CONTROLLER_MANAGER: "controller-manager",
}
_CHILDREN = {
    Fault.DELETE_JOB: JOBS,
    Fault.DELETE_CONFIG_MAP: CONFIGMAPS,
    Fault.DELETE_SERVICE: SERVICES,
    Fault.DELETE_NETWORK_POLICY: NETWORK_POLICIES,
}
_CUT_SECONDS = 5


def strike(place: Place, plan: FaultPlan) -> str | None:
    """Let a fault happen, and put right what does not heal by itself.

    Returns what was hit; None where there was nothing to hit.
    """
    try:
        return _strike(place, plan)
    except (ProcessLookupError, FileNotFoundError):
        return None  # it ended by itself before it was hit
    except RefusedError as error:
        if error.status == 404:
            return None
        raise


def _strike(place: Place, plan: FaultPlan) -> str | None:
    if component := _COMPONENTS.get(plan.fault):
        place.processes.stop([component], grace=0)
        time.sleep(plan.choice * _CUT_SECONDS)
        place.repair()
        return component
    if plan.fault in (Fault.KILL_OPERATOR, Fault.CUT_OPERATOR):
        return _strike_operator(place, plan.fault)
    if template := _CHILDREN.get(plan.fault):
        return _delete(place, template, plan.choice)
    return _strike_pod(place, plan)


def _strike_operator(place: Place, fault: Fault) -> str | None:
    pid = place.operator_process()
    if pid is None:
        return None
    if fault is Fault.KILL_OPERATOR:
        os.kill(pid, signal.SIGKILL)
    else:
        with _without_network(pid):
            time.sleep(_CUT_SECONDS)
    return f"operator {pid}"


def _strike_pod(place: Place, plan: FaultPlan) -> str | None:
    running = [pod for pod in place.all(PODS, labelSelector=names.LABEL_JOB) if _runs(pod)]
    pod = _chosen(running, plan.choice)
    if pod is None:
        return None
    name: str = pod["metadata"]["name"]
    path = f"{PODS.format(namespace=NAMESPACE)}/{name}"
    match plan.fault:
        case Fault.KILL_TRAINER:
            training = place.processes_of(pod, b"finetune_trainer.worker")
            pid = _chosen(training, plan.choice)
            if pid is None:
                return None
            os.kill(pid, signal.SIGKILL)
        case Fault.EVICT_POD:
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
            place.ask("POST", f"{path}/eviction", eviction)
        case Fault.DELETE_POD:
            place.ask("DELETE", path)
        case Fault.DELETE_POD_AT_ONCE:
            place.ask("DELETE", path, gracePeriodSeconds="0")
        case _:
            raise ValueError(f"{plan.fault} is no fault of a pod")
    return name


def _delete(place: Place, template: str, choice: float) -> str | None:
    found = [each for each in place.all(template, labelSelector=names.LABEL_JOB) if _is_there(each)]
    chosen = _chosen(found, choice)
    if chosen is None:
        return None
    name: str = chosen["metadata"]["name"]
    place.ask("DELETE", f"{template.format(namespace=NAMESPACE)}/{name}", propagationPolicy="Background")
    return name


@contextmanager
def _without_network(pid: int) -> Iterator[None]:
    """The pod of a process neither hears nor says anything, except to itself."""
    # The pod keeps its network when the process is started anew meanwhile.
    with open(f"/proc/{pid}/ns/net") as network:
        enter = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{network.fileno()}", "--", "iptables", "--wait")
        rules = (("INPUT", "!", "--in-interface", "lo"), ("OUTPUT", "!", "--out-interface", "lo"))
        for chain, *rest in rules:
            subprocess.run([*enter, "--insert", chain, *rest, "--jump", "DROP"], check=True)
        try:
            yield
        finally:
            for chain, *rest in rules:
                subprocess.run([*enter, "--delete", chain, *rest, "--jump", "DROP"], check=True)


def _runs(pod: Wire) -> bool:
    return _is_there(pod) and pod["status"].get("phase") == "Running"


def _is_there(wire: Wire) -> bool:
    return "deletionTimestamp" not in wire["metadata"]


def _chosen(things: Sequence[T], choice: float) -> T | None:
    return things[min(int(choice * len(things)), len(things) - 1)] if things else None
