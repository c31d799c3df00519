"""A batch/v1 Job as processes of this machine, told of as a cluster tells of it and its pods."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from finetune_api import names
from finetune_api.report import MAX_TERMINATION_BYTES
from finetune_operator.cli.local import gpus
from finetune_operator.cli.local.retries import given_up
from finetune_operator.objects.pods import Manifest

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
# Below those from which Linux takes the ports of outgoing connections.
_PORTS = range(20000, 30000)
INDEX_FIELD = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass
class Node:
    """A process in the place of a pod."""

    pod: str
    index: int
    process: subprocess.Popen[bytes]
    console: Path
    """What it prints."""
    termination: Path
    """What it leaves as its termination message."""
    exit_code: int | None = None
    """As a container runtime tells it: a signal N is 128 + N. None as long as no end was seen."""
    ended: datetime | None = None
    """When it was."""

    def poll(self, now: datetime) -> None:
        """See whether it has ended."""
        code = self.process.poll()
        if self.ended is None and code is not None:
            self.exit_code, self.ended = (128 - code if code < 0 else code), now

    def message(self) -> str:
        """Its termination message, or else the last line that it printed."""
        said = self.termination.read_text("utf-8", errors="replace").strip()
        printed = self.console.read_text("utf-8", errors="replace").strip()
        return said or printed[-MAX_TERMINATION_BYTES:].rpartition("\n")[2]


class Gang:
    """The nodes of one attempt, or the one that prepares the data.

    What a cluster's Job controller does, this does: it ends the peers of a failed pod, and starts a pod again whose Job
    allows it.
    """

    def __init__(
        self,
        job: Manifest,
        command: list[str],
        directory: Path,
        devices: list[list[str]],
        inherited: int,
    ) -> None:
        """Start the pods of a batch/v1 Job, each as a process that runs `command`.

        `directory` takes what they print and their termination messages; `devices` has the GPUs of each; the file
        descriptor `inherited` stays open in all of them.
        """
        self._job = job
        self._name: str = job["metadata"]["name"]
        # Attempts have names of their own.
        self.uid = self._name
        self._pod_spec: Manifest = job["spec"]["template"]["spec"]
        self._command = command
        self._directory = directory
        self._inherited = inherited
        self._port = _free_port()
        self._terminated: datetime | None = None
        self.deleting = False
        self.nodes = [self._start(index, gpu) for index, gpu in enumerate(devices)]

    def _start(self, index: int, gpu: list[str]) -> Node:
        pod = f"{self._name}-{index}"
        console, termination = self._directory / f"{pod}.log", self._directory / f"{pod}.termination"
        termination.touch()
        environment = self._environment(index, pod) | {
            "PET_MASTER_ADDR": LOOPBACK,
            "PET_MASTER_PORT": str(self._port),
            names.ENV_TERMINATION_LOG: str(termination),
        }
        if gpu:
            environment[gpus.VISIBLE] = ",".join(gpu)
        with console.open("wb") as output:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                pass_fds=[self._inherited],
                preexec_fn=_end_with_parent,
                # Ctrl-C reaches the whole foreground group; the nodes are to be told in an orderly way.
                start_new_session=True,
            )
        return Node(pod, index, process, console, termination)

    def _environment(self, index: int, pod: str) -> dict[str, str]:
        """The container's environment, as the kubelet would fill it in, without what it reads from Secrets."""
        fields = {INDEX_FIELD: str(index), "metadata.name": pod}
        [container] = self._pod_spec["containers"]
        return {
            variable["name"]: variable["value"]
            if "value" in variable
            else fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
            for variable in container["env"]
            if "secretKeyRef" not in variable.get("valueFrom", {})
        }

    @property
    def newest(self) -> Node:
        """The node that was started last."""
        return self.nodes[-1]

    @property
    def exit_codes(self) -> list[int | None]:
        """How the nodes ended; None for those that run."""
        return [node.exit_code for node in self.nodes]

    @property
    def over(self) -> bool:
        """Whether all nodes have ended."""
        return None not in self.exit_codes

    def poll(self, now: datetime) -> None:
        """Note who has ended; a failed node ends the others, and who ignores that for too long is killed."""
        for node in self.nodes:
            node.poll(now)
        if self._failure is not None:
            self.terminate(now)
        elif self.over and not self._complete and self._terminated is None:
            # Only a Job of a single pod goes on after the end of one.
            self.nodes.append(self._start(len(self.nodes), []))
        grace = timedelta(seconds=self._pod_spec["terminationGracePeriodSeconds"])
        if self._terminated is not None and now - self._terminated > grace:
            self.kill()

    @property
    def _complete(self) -> bool:
        completions: int = self._job["spec"]["completions"]
        return self.exit_codes.count(0) == completions

    @property
    def _failure(self) -> str | None:
        return given_up(self._job["spec"], [code for code in self.exit_codes if code is not None])

    def terminate(self, now: datetime) -> None:
        """Ask all nodes, once, to save their state and end."""
        if self._terminated is None:
            self._terminated = now
            for node in self.nodes:
                node.process.terminate()

    def delete(self, now: datetime) -> None:
        """End all nodes, because the attempt is of no more use."""
        self.deleting = True
        self.terminate(now)

    def kill(self) -> None:
        """End all nodes at once; the trainer sees to it that no process of a node outlives the first one."""
        for node in self.nodes:
            node.process.kill()

    def job_wire(self) -> Manifest:
        """The batch/v1 Job as an API server would show it."""
        conditions = []
        if self._complete:
            conditions = [{"type": "Complete", "status": "True"}]
        elif self._failure is not None:
            conditions = [{"type": "FailureTarget", "status": "True", "message": self._failure}]
        metadata = self._job["metadata"] | {"uid": self.uid}
        if self.deleting:
            metadata["deletionTimestamp"] = ""
        return self._job | {"metadata": metadata, "status": {"conditions": conditions}}

    def pods_wire(self) -> list[Manifest]:
        """The pods as an API server would show them."""
        return [self._pod_wire(node) for node in self.nodes]

    def _pod_wire(self, node: Node) -> Manifest:
        phase = "Running"
        state: Manifest = {"running": {}}
        if node.ended is not None:
            phase = "Failed" if node.exit_code else "Succeeded"
            state = {
                "terminated": {
                    "exitCode": node.exit_code,
                    "finishedAt": node.ended.isoformat(),
                    "message": node.message(),
                }
            }
        labels = self._job["spec"]["template"]["metadata"]["labels"]
        if self._job["spec"].get("completionMode") == "Indexed":
            labels = labels | {"batch.kubernetes.io/job-completion-index": str(node.index)}
        owner = {"kind": "Job", "name": self._name, "uid": self.uid, "controller": True}
        return {
            "metadata": {
                "name": node.pod,
                "labels": labels,
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": socket.gethostname()},
            "status": {
                "phase": phase,
                "containerStatuses": [{"name": names.TRAINER_CONTAINER, "state": state}],
            },
        }


# Loaded beforehand: between fork and exec there is little that may be done.
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Have the system ask this process to save its state and end when this command is killed. Only Linux can."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _free_port() -> int:
    """A port on which nothing listens, and which no connection is given before the first process listens on it."""
    with socket.socket() as free:
        for port in random.SystemRandom().sample(_PORTS, 20):
            with suppress(OSError):
                free.bind((LOOPBACK, port))
                return port
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])
