"""What goes wrong with a job's pods and files, made to go wrong."""

import errno
import json
import signal
from pathlib import Path

from deploy import NAMESPACE as OPERATOR_NAMESPACE
from deploy import RELEASE, run
from e2e.namespace import Namespace

# Run inside a pod: its processes are nobody else's to see. torchrun's own command line names the module, too.
_SIGNAL = """
import os, pathlib, sys

def words(process):
    try:
        return (process / "cmdline").read_bytes().split(bytes(1))
    except FileNotFoundError:
        return []

training = [
    int(process.name)
    for process in pathlib.Path("/proc").glob("[0-9]*")
    if b"finetune_trainer.worker" in words(process) and b"finetune_trainer.agent" not in words(process)
]
if not training:
    sys.exit("no training process is in this pod")
for pid in training:
    os.kill(pid, int(sys.argv[1]))
"""


def gang(namespace: Namespace, job: str) -> list[str]:
    """The names of the pods of a job's newest attempt, by rank."""
    attempt = namespace.get("finetunejob", job)["status"]["attempts"][-1]["number"]
    selector = f"finetune.dev/job={job},finetune.dev/attempt={attempt}"
    return sorted(pod["metadata"]["name"] for pod in namespace.get("pods", "-l", selector)["items"])


def signal_training(namespace: Namespace, pod: str, number: signal.Signals) -> None:
    """Send a signal to the training processes of a pod, and to no other process there."""
    namespace.kubectl("exec", pod, "--", "python", "-c", _SIGNAL, str(int(number)))


def delete_pod(namespace: Namespace, pod: str) -> None:
    """Delete a pod as people do, with the grace that it has."""
    namespace.kubectl("delete", "pod", pod, "--wait=false")


def delete_pod_at_once(namespace: Namespace, pod: str) -> None:
    """Delete a pod without grace: it is gone from the API before its processes are."""
    namespace.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")


def evict(namespace: Namespace, pod: str) -> None:
    """Ask for a pod's eviction, as `kubectl drain` does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    namespace.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))


def kill_operator() -> None:
    """Kill the operator; its Deployment starts another one."""
    pods = ("--namespace", OPERATOR_NAMESPACE, "--selector", f"app.kubernetes.io/instance={RELEASE}")
    run("hack/cluster", "kubectl", "delete", "pod", *pods, "--grace-period=0", "--force", "--wait=false")


def delete_children(namespace: Namespace, job: str) -> None:
    """Delete, by hand, what the pods of a job find one another and their configuration by."""
    namespace.kubectl("delete", "service,configmap", "--selector", f"finetune.dev/job={job}", "--wait=true")


def states(storage: Path) -> list[Path]:
    """The complete states to go on from in a job's directory, oldest first."""
    return sorted(found.parent for found in storage.glob("resume/step-*/manifest.json"))


def flip_a_byte(state: Path) -> None:
    """Damage the largest file of a state as a disk does: its size stays."""
    [*_, file] = sorted(state.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def fill(disk: Path) -> None:
    """Take all the room that is left on a disk."""
    block = bytes(1 << 16)
    with (disk / "somebody-elses").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(block)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
