"""The training processes as children of this node's first process: their environment, their output, their end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_trainer.ends import causes
from finetune_trainer.ends.stopping import FAREWELL_SECONDS
from finetune_trainer.processes import parent_environment

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What is kept of the output to tell a failure by: the watchdog of NCCL prints pages.
_TAIL_BYTES = 64 * 1024
# torchrun waits as long again for a process that even SIGKILL does not end, which a broken driver or volume can hold.
_KILL_BEFORE_SECONDS = 4
# Whoever still holds the pipe when the child has ended is beyond its reach, and dies with its parent.
_DRAIN_SECONDS = 1


class Output:
    """Standard output of this container, kept on the storage volume too."""

    def __init__(self, kept: Path) -> None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        self._targets: list[BinaryIO] = [sys.stdout.buffer, kept.open("ab", buffering=0)]
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Print, and keep. A full volume or a closed pipe must not hold up those who still have much to say."""
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        for target in tuple(self._targets):
            try:
                target.write(data)
                target.flush()
            except OSError as error:
                self._targets.remove(target)
                self.say(f"{target.name} takes no more output: {error}")

    def say(self, text: str) -> None:
        """Print a line of the first process's own."""
        self.write(f"finetune-trainer: {text}\n".encode(errors="replace"))

    @property
    def tail(self) -> str:
        """The end of what was printed."""
        return self._tail.decode(errors="replace")


class Workers:
    """This node's training processes: under a torchrun of their own, or a single one that has nobody to meet.

    So a model that is split over GPUs is trained by a plain Python process, and nothing has to agree with anything.
    """

    name: str
    """What this process has started."""

    def __init__(
        self, config: RunConfig, file: Path, *, node: int, relaunch: int, scratch: Path, output: Output
    ) -> None:
        """Start them. They meet at another port at every `relaunch`: the one before may not be free yet."""
        self._output = output
        self._grace_period = config.grace_period_seconds
        environment = _environment(os.environ, scratch)
        if config.world_size == 1:
            self.name = "the training process"
            modules = ["finetune_trainer.worker"]
            environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        else:
            self.name = "torchrun"
            modules = ["finetune_trainer.agent", *_torchrun_arguments(config, node, relaunch)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *modules, str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    def terminate(self) -> None:
        """Ask the workers to save their state and go; they have the grace period for it."""
        self._process.send_signal(signal.SIGTERM)
        patience = threading.Timer(self._grace_period - _KILL_BEFORE_SECONDS, self._process.kill)
        patience.daemon = True
        patience.start()

    def wait(self) -> int:
        """Wait until all of it has ended and all output is written; returns the child's return code."""
        code = self._process.wait()
        self._copier.join(timeout=_DRAIN_SECONDS)
        return code

    def _copy(self) -> None:
        assert self._process.stdout is not None
        while data := self._process.stdout.read1(65536):  # type: ignore[attr-defined]
            self._output.write(data)


def _torchrun_arguments(config: RunConfig, node: int, relaunch: int) -> list[str]:
    port = int(os.environ.get("PET_MASTER_PORT", names.MASTER_PORT)) + relaunch
    return [
        "--rdzv-backend=static",
        "--max-restarts=0",
        f"--nnodes={config.nodes}",
        f"--nproc-per-node={config.processes_per_node}",
        f"--node-rank={node}",
        f"--master-addr={os.environ.get('PET_MASTER_ADDR', _LOOPBACK[0])}",
        f"--master-port={port}",
        # torchrun would kill its workers after 30 seconds, whatever the pod's grace period.
        f"--shutdown-timeout={config.grace_period_seconds - FAREWELL_SECONDS}",
        "-m",
        "finetune_trainer.worker",
    ]


def _environment(base: Mapping[str, str], scratch: Path) -> dict[str, str]:
    environment = {
        **base,
        **parent_environment(),
        causes.ENV_CAUSES: str(scratch),
        "PYTHONUNBUFFERED": "1",
    }
    # Threads that spin while they wait slow down whoever shares their cores: 5 times with two pods on two cores.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if base.get("PET_MASTER_ADDR", _LOOPBACK[0]) in _LOOPBACK and sys.platform == "linux":
        # A gang on one machine needs no host name that resolves.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
