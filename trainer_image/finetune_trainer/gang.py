"""This node's part of the gang: torchrun as a child process, its output, its environment, its end."""

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
from finetune_trainer import causes
from finetune_trainer.processes import parent_environment

# What the first process needs, out of the grace period, to tell how the workers ended.
_FAREWELL_SECONDS = 5
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Output:
    """Standard output of this container, kept on the storage volume too."""

    def __init__(self, kept: Path) -> None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO | None = kept.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Print, and keep. A full volume must not silence a trainer that is about to say so."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        if self._file is None:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._file = None
            self.say(f"the log is no longer kept on the volume: {error}")

    def say(self, text: str) -> None:
        """Print a line of the first process's own."""
        self.write(f"finetune-trainer: {text}\n".encode())


class Gang:
    """A running torchrun."""

    def __init__(self, config: RunConfig, file: Path, *, node: int, scratch: Path, output: Output) -> None:
        self._output = output
        command = [
            sys.executable,
            "-m",
            "finetune_trainer.agent",
            *_torchrun_arguments(config, node),
            str(file),
        ]
        self._process = subprocess.Popen(
            command,
            env=_environment(config, os.environ, scratch),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    def terminate(self) -> None:
        """Ask the workers to save their state and go."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until all of it has ended and all output is written; returns torchrun's return code."""
        code = self._process.wait()
        # Whoever still holds the pipe is beyond torchrun's reach; it dies with its parent.
        self._copier.join(timeout=_FAREWELL_SECONDS)
        return code

    def _copy(self) -> None:
        assert self._process.stdout is not None
        while data := self._process.stdout.read1(65536):  # type: ignore[attr-defined]
            self._output.write(data)


def _torchrun_arguments(config: RunConfig, node: int) -> list[str]:
    return [
        "--rdzv-backend=static",
        "--max-restarts=0",
        f"--nnodes={config.nodes}",
        f"--nproc-per-node={config.processes_per_node}",
        f"--node-rank={node}",
        f"--master-addr={os.environ.get('PET_MASTER_ADDR', _LOOPBACK[0])}",
        f"--master-port={os.environ.get('PET_MASTER_PORT', names.MASTER_PORT)}",
        # torchrun would kill its workers after 30 seconds, whatever the pod's grace period.
        f"--shutdown-timeout={config.grace_period_seconds - _FAREWELL_SECONDS}",
        "-m",
        "finetune_trainer.worker",
    ]


def _environment(config: RunConfig, base: Mapping[str, str], scratch: Path) -> dict[str, str]:
    environment = {
        **base,
        **parent_environment(),
        causes.ENV_CAUSES: str(scratch),
        # Inputs are local directories; nothing may be looked up elsewhere.
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    # Threads that spin while they wait slow down whoever shares their cores: 5 times with two pods on two cores.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if base.get("PET_MASTER_ADDR", _LOOPBACK[0]) in _LOOPBACK and sys.platform == "linux":
        # A gang on one machine needs no host name that resolves.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
