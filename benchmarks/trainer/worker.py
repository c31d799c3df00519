"""A process of its own for each system: imports, memory and threads of one do not touch another's.

It lives through all repetitions, so that importing is not paid for each: `python -m benchmarks.trainer.worker SYSTEM`
reads a request per line and answers each with a line. While it waits it takes no CPU time.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from benchmarks.memory import Growth
from benchmarks.trainer.systems import Preparation, Prepared, Run, Trained

Answer = TypeVar("Answer", Trained, Prepared)


class WorkerError(Exception):
    """A system did not do what it was asked to."""


class Worker:
    """The process of a system, as the one that measures sees it."""

    def __init__(self, system: str, log: Path, threads: int) -> None:
        """Start it; it imports its libraries while others may still be measured, so ask it something first."""
        self._system, self._log = system, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.trainer.worker", system],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **environment(threads)},
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[str] = self._process.stdin
        self._answers: IO[str] = self._process.stdout
        self._answer()

    def train(self, run: Run) -> Trained:
        """Have it train."""
        return Trained(**self._ask("train", run))

    def prepare(self, preparation: Preparation) -> Prepared:
        """Have it prepare data."""
        return Prepared(**self._ask("prepare", preparation))

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self._process.wait()

    def _ask(self, what: str, request: Run | Preparation) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=request.scratch) as scratch:
            plain = asdict(request) | {"scratch": scratch}
            self._requests.write(json.dumps([what, plain], default=str) + "\n")
            self._requests.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise WorkerError(
                f"{self._system} ended with exit code {self._process.wait()}; {self._log} ends:\n{tail}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def workers(systems: Mapping[str, str], logs: Path, threads: int) -> Iterator[dict[str, Worker]]:
    """A process for each of the names, with the system that it stands for; ended in the end."""
    started = {name: Worker(system, logs / f"{name}.log", threads) for name, system in systems.items()}
    try:
        yield started
    finally:
        for worker in started.values():
            worker.close()


def environment(threads: int) -> dict[str, str]:
    """What every measured process has in its environment."""
    return {
        "OMP_NUM_THREADS": str(threads),
        # finetune-trainer's own choice: threads that spin while they wait take CPU time from whoever shares it.
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONUNBUFFERED": "1",
    }


def _methods(system: str) -> dict[str, Callable[[dict[str, Any]], Trained | Prepared]]:
    """Imports happen here, so that each process has its own system's alone."""
    if system == "ours":
        from benchmarks.trainer.systems.ours import Ours

        chosen: Any = Ours()
    elif system == "padded-loop":
        from benchmarks.trainer.systems.padded_loop import PaddedLoop

        chosen = PaddedLoop()
    else:
        from benchmarks.trainer.systems.trl_sft import Trl

        chosen = Trl(padding_free=system == "trl-padding-free")
    return {
        "train": lambda request: _measured(chosen, Run(**_with_paths(request))),
        "prepare": lambda request: chosen.prepare(Preparation(**_with_paths(request))),
    }


def _measured(system: Any, run: Run) -> Trained:
    if run.use_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
    growth = Growth()
    trained: Trained = system.train(run)
    peak = torch.cuda.max_memory_allocated() if run.use_gpu else growth.at_peak()
    return replace(trained, peak_memory=peak)


def _with_paths(request: dict[str, Any]) -> dict[str, Any]:
    return request | {name: Path(request[name]) for name in ("model", "data", "scratch")}


def main() -> None:
    """Answer requests until there are no more."""
    # Libraries print what they like; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    methods = _methods(sys.argv[1])
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        what, request = json.loads(line)
        answer = methods[what](request)
        answers.write(json.dumps(asdict(answer)) + "\n")
        answers.flush()
        shutil.rmtree(request["scratch"], ignore_errors=True)


if __name__ == "__main__":
    main()
