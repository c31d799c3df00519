"""Gangs of processes that are forked from one that has imported everything: they start at once.

Each runs a training process's whole course, `finetune_trainer.worker`, on one thread; what torchrun would tell them is
in their environment. What the first process of a container does besides is not done: nothing restarts workers or
ends the peers of one that died.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_trainer import planning, storage
from finetune_trainer.ends import causes
from trainer.gangs import PATIENCE, free_port

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        # Which pyarrow looks for when it first hands out an array.
        "pandas",
        "finetune_trainer.train",
        "finetune_trainer.methods.lora",
        "finetune_trainer.ends.verdict",
        "finetune_trainer.worker",
        "transformers.models.llama.modeling_llama",
    ]
)

# Done in each process before it begins, which is told its rank. Travels by pickle.
Beforehand = Callable[[int], None]


class Gang:
    """The processes of one attempt, running."""

    def __init__(self, config: RunConfig, *, attempt: int = 1, beforehand: Beforehand | None = None) -> None:
        """Start all of them."""
        storage.claim(config, node=0)
        root = Path(config.locations.storage)
        self._scratch = root.with_name(f".{config.name}-{attempt}")
        self._scratch.mkdir()
        file = self._scratch / names.RUN_CONFIG_FILE
        file.write_text(config.to_json())
        common = {
            "WORLD_SIZE": str(config.world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            names.ENV_ATTEMPT: str(attempt),
            causes.ENV_CAUSES: str(self._scratch),
        }
        self.processes: list[BaseProcess] = []
        for rank in range(config.world_size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            output = str(self._scratch / f"output-{rank}")
            process = FORKS.Process(
                target=_take_part, args=(str(file), output, common | own, beforehand), daemon=True
            )
            process.start()
            self.processes.append(process)

    def wait(self, patience: float = PATIENCE) -> list[int | None]:
        """How each process ended: its exit code, negative for a signal; None for one that is still there."""
        deadline = time.monotonic() + patience
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """Take away what is left, at once."""
        for process in self.processes:
            process.kill()
            process.join()

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a process a signal."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def output(self) -> str:
        """What all of them printed."""
        return "".join(file.read_text() for file in sorted(self._scratch.glob("output-*")))

    def causes(self) -> dict[str, dict[str, Any]]:
        """What the processes left for the first one of their container, by their names."""
        return {file.stem: json.loads(file.read_text()) for file in self._scratch.glob("rank-*.json")}


@contextmanager
def running(config: RunConfig, **options: Any) -> Iterator[Gang]:
    """A gang that is killed if the test leaves it running."""
    gang = Gang(config, **options)
    try:
        yield gang
    finally:
        gang.kill()


@dataclass(frozen=True)
class _Planned:
    """Fields of the plan to be set to something else."""

    fields: Mapping[str, Any]

    def __call__(self, rank: int) -> None:
        make = planning.make_plan

        def make_plan(*args: Any) -> planning.ExactPlan:
            return make(*args).model_copy(update=dict(self.fields))

        vars(planning)["make_plan"] = make_plan


def train(config: RunConfig, **planned: Any) -> None:
    """Train in processes of this machine, to the end; `planned` are fields of the plan to be set to something else."""
    with running(config, beforehand=_Planned(planned)) as gang:
        codes = gang.wait()
        assert codes == [0] * config.world_size, (codes, gang.output())


def _take_part(file: str, output: str, environment: Mapping[str, str], beforehand: Beforehand | None) -> None:
    import torch

    from finetune_trainer import distributed, processes, worker

    # Everybody is on this machine, and nobody's torchrun waits for rank 0.
    vars(distributed).update(_POLL_SECONDS=0.01, _GO_LAST_SECONDS=0)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(handle, standard)
    # The parent is the process that all of them are forked from.
    os.environ.update({name: str(os.getppid()) for name in processes.parent_environment()})
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["worker", file]
    if beforehand:
        beforehand(int(environment["RANK"]))
    worker.main()
