"""Work on a stream of items in several processes: results in the items' order, few of either in memory at a time."""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Generic, TypeVar, cast

from finetune_trainer.ends.errors import WorkerDiedError
from finetune_trainer.processes import leave_out_torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# One process hands out and collects; with more workers than this it would be what the others wait for.
MAX_PROCESSES = 16
# Results that wait for an earlier one, for each worker.
_AHEAD = 4
_FAREWELL_SECONDS = 5
# Libraries, a tokenizer of 256,000 tokens and a few hundred rows take less.
_BYTES_PER_PROCESS = 1 << 29
# A container's limits, as it sees them: "quota period" in microseconds, or "max period"; bytes, or "max".
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
# What the machine has left, in KiB.
_MEMORY = Path("/proc/meminfo")


def available_processes() -> int:
    """As many processes as there are CPUs and memory for, within reason."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [cpus, MAX_PROCESSES]
    # Where there is no limit, or another system, these say nothing.
    with suppress(OSError, ValueError):
        quota, period = _CPU_LIMIT.read_text().split()
        limits.append(int(quota) // int(period))
    with suppress(OSError, ValueError):
        limits.append(int(_MEMORY_LIMIT.read_text()) // _BYTES_PER_PROCESS)
    with suppress(OSError, ValueError):
        _, rest = _MEMORY.read_text().split("MemAvailable:")
        limits.append(int(rest.split()[0]) * 1024 // _BYTES_PER_PROCESS)
    return max(1, min(limits))


def ordered(
    make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], processes: int
) -> Generator[Result, None, None]:
    """What the function that `make` returns makes of each item, in the items' order.

    Every process calls `make` once; with one process it is this one. `make`, items, results and exceptions travel
    between processes as pickles. Close the iterator to end the others early. Raises what the function raises, and
    WorkerDiedError.
    """
    if processes == 1:
        function = make()
        yield from map(function, items)
        return
    workers = [_Worker(make) for _ in range(processes)]
    try:
        yield from _distribute(items, workers)
        for worker in workers:
            worker.dismiss()
    finally:
        for worker in workers:
            worker.end()


class _Worker(Generic[Item, Result]):
    """A process, and what it is doing."""

    def __init__(self, make: Callable[[], Callable[[Item], Result]]) -> None:
        # A forked copy of this process would inherit locks that other threads hold.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Made of it only when the process has left out what it does not need.
        made = pickle.dumps(make)
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, made), daemon=True)
        self._process.start()
        theirs.close()
        self.index: int | None = None
        """Number of the item that it works on; None while it gets ready."""

    def give(self, index: int, item: Item) -> None:
        """Hand over an item. The worker must have answered before: two that both send would wait for ever."""
        self.index = index
        try:
            self.connection.send(item)
        except BrokenPipeError:
            raise self._death() from None

    def take(self) -> Result:
        """What it answered. Raises what the function raised, and WorkerDiedError."""
        try:
            value, error = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if error is not None:
            raise cast(BaseException, error)
        return cast(Result, value)

    def dismiss(self) -> None:
        """Tell it that there is nothing more to do."""
        self.connection.close()
        self._process.join(_FAREWELL_SECONDS)

    def end(self) -> None:
        """End it, whatever it is doing."""
        self.connection.close()
        self._process.kill()
        self._process.join()

    def _death(self) -> WorkerDiedError:
        self._process.join(_FAREWELL_SECONDS)
        return WorkerDiedError(self._process.exitcode)


def _distribute(items: Iterable[Item], workers: list[_Worker[Item, Result]]) -> Iterator[Result]:
    source = enumerate(items)
    idle: list[_Worker[Item, Result]] = []
    busy = {worker.connection: worker for worker in workers}
    done: dict[int, Result] = {}
    given = taken = 0
    while True:
        while idle and given - taken < _AHEAD * len(workers) and (following := next(source, None)):
            worker = idle.pop()
            worker.give(*following)
            busy[worker.connection] = worker
            given += 1
        if taken == given and not busy:
            return
        # A process that ends closes its connection, which wakes this one too.
        for connection in cast(list[Connection], wait(list(busy))):
            worker = busy.pop(connection)
            result = worker.take()
            if worker.index is not None:
                done[worker.index] = result
            idle.append(worker)
        while taken in done:
            yield done.pop(taken)
            taken += 1


def _work(connection: Connection, made: bytes) -> None:
    """A worker's life: it ends when the connection does, so it does not outlive its parent."""
    leave_out_torch()
    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # There are as many processes as CPUs; each one's library would start as many threads again.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        function = pickle.loads(made)()
        connection.send((None, None))
        while True:
            connection.send((function(connection.recv()), None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        connection.send((None, error))
