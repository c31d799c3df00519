"""Work on a stream of items in several processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from finetune_trainer.ends.errors import InvalidDataError, WorkerDiedError
from finetune_trainer.prepare.parallel import available_processes, ordered


def doubler() -> Callable[[int], tuple[int, int]]:
    """Every third item takes longer than those that follow."""

    def double(item: int) -> tuple[int, int]:
        if item % 3 == 0:
            time.sleep(0.02)
        return 2 * item, os.getpid()

    return double


def straggler() -> Callable[[int], None]:
    """The first item takes long."""

    def work(item: int) -> None:
        time.sleep(0 if item else 1)

    return work


def refusing(item: int) -> int:
    if item == 5:
        raise InvalidDataError("not this one", ["row 5"])
    return item


def dying(how: int, item: int) -> int:
    if item == 5:
        os.kill(os.getpid(), how)
    return item


def refuser() -> Callable[[int], int]:
    return refusing


def suicide(how: int) -> Callable[[int], int]:
    return partial(dying, how)


def unfit() -> Callable[[int], int]:
    raise InvalidDataError("this will never do")


def sleeper() -> Callable[[int], None]:
    return time.sleep


def alive(pid: int) -> bool:
    try:
        # A dead child of another process, of which nobody took note yet, counts as dead.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers() -> list[int]:
    """Processes of this one that work, without those that Python itself keeps."""
    return [
        child
        for child in children(os.getpid())
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_items(processes: int) -> None:
    results = list(ordered(doubler, range(50), processes))
    assert [result for result, _ in results] == [2 * item for item in range(50)]
    used = {pid for _, pid in results}
    # How many of them get to work before all is done, is the machine's business.
    assert used == {os.getpid()} if processes == 1 else os.getpid() not in used
    assert not workers()


def test_no_more_is_read_than_can_be_worked_on_soon() -> None:
    read = []

    def items() -> Iterator[int]:
        for item in range(1000):
            read.append(item)
            yield item

    with closing(ordered(straggler, items(), 2)) as results:
        next(results)
        # The others do not run away from the first item, whose result all later ones wait for.
        assert len(read) <= 8
    assert not workers()


def test_what_the_function_raises_is_raised_here_and_nobody_goes_on_working() -> None:
    with pytest.raises(InvalidDataError, match="not this one") as caught:
        list(ordered(refuser, range(50), 2))
    assert caught.value.details == ["row 5"]
    assert "in refusing" in caught.value.__notes__[0]
    assert not workers()


def test_a_worker_that_cannot_get_ready_says_why() -> None:
    with pytest.raises(InvalidDataError, match="this will never do"):
        list(ordered(unfit, range(50), 2))


@pytest.mark.parametrize(
    ("number", "exit_code", "words"),
    [(signal.SIGKILL, ExitCode.KILLED, "want of memory"), (signal.SIGSEGV, ExitCode.ERROR, "SIGSEGV")],
)
def test_the_death_of_a_worker_is_told_and_nobody_waits(number: int, exit_code: ExitCode, words: str) -> None:
    with pytest.raises(WorkerDiedError, match=words) as caught:
        list(ordered(partial(suicide, number), range(50), 2))
    assert caught.value.exit_code == exit_code
    assert not workers()


def test_workers_do_not_outlive_their_parent() -> None:
    script = (
        "from unit.test_trainer_parallel import doubler\n"
        "from finetune_trainer.prepare.parallel import ordered\n"
        "import itertools\n"
        "if __name__ == '__main__':\n"
        "    for result in ordered(doubler, itertools.count(), 2):\n"
        "        print(result, flush=True)\n"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        offspring = children(parent.pid)
        assert len(offspring) >= 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(alive(child) for child in offspring):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("cpu", "memory", "left", "expected"),
    [
        ("max 100000", "max", 64, 16),
        ("350000 100000", "max", 64, 3),
        ("50000 100000", "max", 64, 1),
        ("max 100000", str(5 << 30), 64, 10),
        ("max 100000", "max", 7, 14),
        ("max 100000", "max", 0, 1),
        (None, None, 64, 16),
    ],
)
def test_there_are_as_many_processes_as_there_is_cpu_time_and_memory_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpu: str | None,
    memory: str | None,
    left: int,
    expected: int,
) -> None:
    """`left` in GiB."""
    contents = {"_CPU_LIMIT": cpu, "_MEMORY_LIMIT": memory, "_MEMORY": f"MemAvailable: {left << 20} kB\n"}
    for name, text in contents.items():
        monkeypatch.setattr(f"finetune_trainer.prepare.parallel.{name}", tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert available_processes() == expected
