"""What exchanging gradients costs two processes: `python -m benchmarks.lora.exchange MODEL RANK PORT`."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.trainer.worker import WorkerError, environment

PROCESSES = 2
# Of a process, in a step.
SAMPLES, SAMPLE = 8, 110
_REPETITIONS = 10


@dataclass(frozen=True)
class Exchange:
    """Seconds of a step of the first process, when nobody waits for anybody."""

    passes: float
    """Forward and backward."""
    exchange: float
    """Until all have the mean of all gradients."""

    @property
    def share(self) -> float:
        """What of the two the exchange takes."""
        return self.exchange / (self.passes + self.exchange)


def measure(model: Path, port: int) -> Exchange:
    """What two processes of one thread each find, over loopback."""
    running = [_start(model, rank, port) for rank in range(PROCESSES)]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise WorkerError(
            f"a process that exchanges ended with exit codes {[each.returncode for each in running]}"
        )
    passes, exchange = outputs[0].splitlines()[-1].split()
    return Exchange(float(passes), float(exchange))


def _start(model: Path, rank: int, port: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lora.exchange", str(model), str(rank), str(port)],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment(threads=1)},
        text=True,
    )


def main(arguments: Sequence[str]) -> None:
    """Take part, and print the medians of both."""
    import torch
    import torch.distributed as dist

    from benchmarks.random_samples import random_samples
    from finetune_api.methods import Lora
    from finetune_api.trained_weights import ALPHA_PER_RANK, LORA_R
    from finetune_trainer.adapters.adapter import adapt
    from finetune_trainer.adapters.base import load
    from finetune_trainer.adapters.identity import Named
    from finetune_trainer.methods.lora import LowRank

    directory, rank, port = Path(arguments[0]), int(arguments[1]), arguments[2]
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    frozen = load(directory, {"": torch.device("cpu")}, None).train()
    adapted = adapt(frozen, Lora(), r=LORA_R, alpha=ALPHA_PER_RANK * LORA_R, base=Named(str(directory)))
    trained = LowRank(adapted, world_size=PROCESSES)
    draw = torch.Generator().manual_seed(rank)
    passes, exchanges = [], []
    # The first time, memory is taken and connections are made.
    for _ in range(_REPETITIONS + 1):
        inputs = random_samples(draw, SAMPLES, SAMPLE, frozen.config.vocab_size)
        dist.barrier()
        began = time.perf_counter()
        trained.model(**inputs).backward()
        passes.append(time.perf_counter() - began)
        dist.barrier()
        began = time.perf_counter()
        trained.pull_back()
        exchanges.append(time.perf_counter() - began)
        trained.zero_grad()
    print(median(passes[1:]), median(exchanges[1:]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
