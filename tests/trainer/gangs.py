"""Training gangs as a user of `finetune-trainer` starts them: one command per node, meeting over loopback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.ports import free_ports
from finetune_api import names
from finetune_api.report import MAX_TERMINATION_BYTES, Metrics, Report, StepRecord
from finetune_api.runconfig import Locations, RunConfig, run_config
from finetune_api.spec import FineTuneJob

# Long enough for a process that imports torch and transformers on a busy machine of two cores.
PATIENCE = 240


def config(
    base: Path,
    *,
    name: str = "run",
    nodes: int = 1,
    data: str = "train.jsonl",
    every_epoch: bool = True,
    **hyperparameters: Any,
) -> RunConfig:
    """A run on the CPU below `base`, which holds `model/` and the data; its storage is `base/name`."""
    job = FineTuneJob.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": "team-a", "uid": f"uid-of-{name}"},
            "spec": {
                "method": "sft",
                "model": {"volume": {"claimName": "models", "path": "tiny"}},
                "dataset": {"train": {"volume": {"claimName": "data", "path": data}}},
                "storage": {"claimName": "runs"},
                "hyperparameters": hyperparameters,
                "checkpoints": {"everyEpoch": every_epoch},
                "resources": {"nodes": nodes, "gpusPerNode": 0},
                "failurePolicy": {"gracePeriodSeconds": 60},
            },
        }
    )
    locations = Locations(
        model=str(base / "model"), data={"train": [str(base / data)]}, storage=str(base / name)
    )
    return run_config(job, locations, None)


@dataclass(frozen=True)
class End:
    """How one node ended."""

    exit_code: int
    message: str
    """The termination message, as the kubelet would have kept it."""
    output: str

    @property
    def report(self) -> Report:
        """The Report that the termination message is."""
        assert len(self.message.encode()) <= MAX_TERMINATION_BYTES
        return Report.model_validate_json(self.message)

    @property
    def reason(self) -> str:
        """The cause in a sentence."""
        failure = self.report.failure
        assert failure is not None, self.output
        assert failure.exit_code == self.exit_code
        return failure.message


class Gang:
    """The nodes of one attempt, running."""

    def __init__(self, config: RunConfig, *, attempt: int = 1, inside: Sequence[str] = ()) -> None:
        """Start all nodes; `inside` is a command that runs the one it is given."""
        self._inside = inside
        self._attempt = attempt
        self.storage = Path(config.locations.storage)
        self._scratch = self.storage.with_name(f".{config.name}-{attempt}")
        self._scratch.mkdir(exist_ok=True)
        file = self._scratch / names.RUN_CONFIG_FILE
        file.write_text(config.to_json())
        common = {
            **os.environ,
            names.ENV_ATTEMPT: str(attempt),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(free_port()),
        }
        self.nodes = [self._start(file, node, common) for node in range(config.nodes)]

    def _start(self, file: Path, node: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        own = {"PET_NODE_RANK": str(node), names.ENV_TERMINATION_LOG: str(self._scratch / f"end-{node}")}
        with (self._scratch / f"output-{node}").open("wb") as output:
            return subprocess.Popen(
                [*self._inside, sys.executable, "-m", "finetune_trainer", "train", "--config", str(file)],
                env=environment | own,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> list[End]:
        """How each node ended."""
        for node in self.nodes:
            node.wait(PATIENCE)
        return [
            End(
                process.returncode,
                (self._scratch / f"end-{node}").read_text(),
                (self._scratch / f"output-{node}").read_text(),
            )
            for node, process in enumerate(self.nodes)
        ]

    def wait_for_step(self, step: int) -> None:
        """Wait until a step of this attempt is on the volume."""
        deadline = time.monotonic() + PATIENCE
        while not any(
            record.attempt == self._attempt and record.step >= step for record in steps(self.storage)[-1:]
        ):
            assert all(node.poll() is None for node in self.nodes), [end.output for end in self.wait()]
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def terminate(self, node: int = 0) -> None:
        """SIGTERM to the first process of a node, as the kubelet sends it."""
        self.nodes[node].send_signal(signal.SIGTERM)

    def kill_worker(self, node: int) -> None:
        """SIGKILL to a node's only training process."""
        os.kill(self._worker(node), signal.SIGKILL)

    def stop_worker(self, node: int) -> None:
        """Have a node's only training process do nothing more, not even react to signals that ask for something."""
        os.kill(self._worker(node), signal.SIGSTOP)

    def kill_worker_unseen(self, node: int) -> None:
        """SIGKILL to a node's only training process, whose torchrun comes to look only when it is asked to stop.

        The other nodes have ended by then.
        """
        [torchrun] = _children(self.nodes[node].pid)
        os.kill(torchrun, signal.SIGSTOP)
        self.kill_worker(node)
        for other in (process for process in self.nodes if process is not self.nodes[node]):
            other.wait(PATIENCE)
        self.terminate(node)
        deadline = time.monotonic() + PATIENCE
        while not _pending(torchrun) & 1 << signal.SIGTERM - 1:
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)
        os.kill(torchrun, signal.SIGCONT)

    def _worker(self, node: int) -> int:
        """A child of the first process, or of the torchrun that it has started where there is a gang."""
        [child] = _children(self.nodes[node].pid)
        return child if len(self.nodes) == 1 else _children(child)[0]


@contextmanager
def running(config: RunConfig, **options: Any) -> Iterator[Gang]:
    """A gang that is killed if the test leaves it running."""
    gang = Gang(config, **options)
    try:
        yield gang
    finally:
        for node in gang.nodes:
            node.kill()
            node.wait()


def run(config: RunConfig, **options: Any) -> list[End]:
    """Run a gang to its end."""
    with running(config, **options) as gang:
        return gang.wait()


def kept_report(storage: Path) -> Report:
    """The newest Report on the volume."""
    return Report.from_json((storage / names.REPORT_FILE).read_bytes())


def steps(storage: Path) -> list[StepRecord]:
    """Every line of the metrics file. The last one may still be being written."""
    try:
        lines = (storage / names.METRICS_FILE).read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [StepRecord.model_validate_json(line) for line in lines if line.endswith("\n")]


def metrics(storage: Path) -> list[Metrics]:
    """What every step of the run showed: each is there once, in order."""
    found = [record.metrics for record in steps(storage)]
    assert [step.step for step in found] == list(range(1, len(found) + 1))
    return found


def losses(storage: Path) -> list[float | None]:
    """The loss of every step."""
    return [step.loss for step in metrics(storage)]


def manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a complete directory."""
    value: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return value


def small_volume(directory: Path, size: str) -> list[str]:
    """A command that runs another with an empty volume of that size mounted at a directory."""
    directory.mkdir()
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(directory)]


needs_mount = pytest.mark.skipif(
    shutil.which("unshare") is None or bool(os.system("unshare --map-root-user --mount true")),
    reason="this system lets nobody mount a volume of his own",
)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _pending(pid: int) -> int:
    """The signals that wait for a process, as a mask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [mask] = [line.split()[1] for line in lines if line.startswith("ShdPnd:")]
    return int(mask, 16)


def free_port() -> int:
    """A port that nobody listens on, and that no connection of others is given meanwhile."""
    [port] = free_ports(1)
    return port
