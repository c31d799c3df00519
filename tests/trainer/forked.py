"""Gangs of processes that are forked from one that has imported everything: they start at once.

Each runs a training process's whole course, `finetune_trainer.train`, on one thread; what torchrun would tell them is
in their environment.
"""

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.runconfig import RunConfig
from finetune_trainer import planning, storage
from trainer.gangs import PATIENCE, free_port

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["finetune_trainer.train", "transformers.models.llama.modeling_llama"])


def train(config: RunConfig, **planned: Any) -> None:
    """Train in processes of this machine, to the end; `planned` are fields of the plan to be set to something else."""
    storage.claim(config, node=0)
    port = free_port()
    processes = []
    for rank in range(config.world_size):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(config.world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = _FORKS.Process(target=_take_part, args=(config.to_json(), environment, planned))
        process.start()
        processes.append(process)
    try:
        for process in processes:
            process.join(PATIENCE)
        codes = [process.exitcode for process in processes]
        assert codes == [0] * config.world_size, codes
    finally:
        for process in processes:
            process.kill()


def _take_part(config: str, environment: Mapping[str, str], planned: Mapping[str, Any]) -> None:
    import torch

    import finetune_trainer.train as course

    os.environ.update(environment)
    torch.set_num_threads(1)

    def make_plan(*args: Any) -> planning.ExactPlan:
        return planning.make_plan(*args).model_copy(update=dict(planned))

    vars(course)["make_plan"] = make_plan
    course.train(
        RunConfig.model_validate_json(config),
        attempt=1,
        ca=Path(),
        token=Path(),
        begin=lambda: None,
        stop_requested=lambda: False,
    )
