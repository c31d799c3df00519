"""How long it takes to decompose a model's matrices: `python -m benchmarks.osft.decomposing MODEL SCRATCH HANDS HAND`.

Such a process is one of as many as HANDS, and works on what is dealt to HAND.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trainer.worker import WorkerError, environment


@dataclass(frozen=True)
class Decomposing:
    """Seconds."""

    processes: int
    anew: float
    """Until the last process has decomposed and stored what is its."""
    again: float
    """The same when everything is in the cache."""


def measure(base: Path, scratch: Path, processes: int) -> Decomposing:
    """What so many processes of one thread each take."""
    return Decomposing(processes, _once(base, scratch, processes), _once(base, scratch, processes))


def _once(base: Path, scratch: Path, hands: int) -> float:
    """They begin together, when all have the model in memory."""
    running = [_start(base, scratch, hands, hand) for hand in range(hands)]
    for process in running:
        _line(process)
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    seconds = max(float(_line(process)) for process in running)
    for process in running:
        process.wait()
    return seconds


def _start(base: Path, scratch: Path, hands: int, hand: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.osft.decomposing", *map(str, (base, scratch, hands, hand))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment(threads=1)},
        text=True,
    )


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise WorkerError(f"a process that decomposes ended with exit code {process.wait()}")
    return line


def main(arguments: Sequence[str]) -> None:
    """Decompose one hand, when standard input is closed, and print the seconds."""
    from finetune_trainer.model import load
    from finetune_trainer.subspaces.deal import deal, decomposition_cost
    from finetune_trainer.subspaces.decomposition import Decomposer
    from finetune_trainer.subspaces.targets import find_targets

    base, scratch, hands, hand = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), int(arguments[3])
    targets = find_targets(load(base), (), ratio=0.5)
    mine = deal([decomposition_cost(*target.shape) for target in targets], hands)[hand]
    decomposer = Decomposer(scratch, f"hand-{hand}", lambda: None)
    print("ready", flush=True)
    sys.stdin.read()
    began = time.perf_counter()
    for number in mine:
        decomposer.factors(targets[number].name, targets[number].shard)
    print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
