"""Saving beside the training, by one process and by several: what it waits for, and what becomes of failures."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch.distributed.checkpoint as dcp

from finetune_trainer.checkpoints import checkpoint
from finetune_trainer.circle import Circle
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import PeerLostError, StorageFullError, TrainerError
from trainer.gangs import PATIENCE, needs_mount, small_volume
from trainer.states import (
    advance,
    alone,
    assert_same,
    checkpoints_in,
    content,
    expected,
    save,
    small,
    together,
)


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    """A gang of this process alone."""
    with alone() as made:
        yield made


class Gate:
    """What writes states waits here."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.waiting = 0
        self.most_at_once = 0
        self._save = dcp.save

    def __call__(self, *given: object, **named: object) -> object:
        self.waiting += 1
        self.most_at_once = max(self.most_at_once, self.waiting)
        assert self.opened.wait(PATIENCE)
        self.waiting -= 1
        return self._save(*given, **named)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(dcp, "save", gate)
    yield gate
    gate.opened.set()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_what_is_saved_is_what_was_when_it_began(gang: Gang, tmp_path: Path, gate: Gate) -> None:
    checkpoints, state = checkpoints_in(tmp_path, gang), small(gang)
    advance(state)
    checkpoints.begin(state, 1, 0.1, metrics_bytes=0)
    # Before anything of it is written.
    for _ in range(3):
        advance(state)
    assert checkpoints.finished() is None
    gate.opened.set()
    saved = checkpoints.finish()
    assert saved is not None
    assert saved.step == 1
    assert checkpoints.finished() is checkpoints.finish() is None
    other = small(gang)
    assert checkpoints.restore(other).step == 1
    assert_same(content(other), expected(1))
    # It goes on just as the one that was saved did.
    for _ in range(3):
        advance(other)
    assert_same(content(other), content(state))


def test_one_state_is_saved_at_a_time(gang: Gang, tmp_path: Path, gate: Gate) -> None:
    checkpoints, state = checkpoints_in(tmp_path, gang), small(gang)
    checkpoints.begin(state, 1, 0.1, metrics_bytes=0)
    second = threading.Thread(target=checkpoints.begin, args=(state, 2, 0.2, 0))
    second.start()
    wait_until(lambda: gate.waiting == 1)
    second.join(0.2)
    assert second.is_alive()
    gate.opened.set()
    second.join(PATIENCE)
    last = checkpoints.finish()
    assert last is not None
    assert (last.step, gate.most_at_once) == (2, 1)


def test_what_it_costs_is_measured(gang: Gang, tmp_path: Path, gate: Gate) -> None:
    checkpoints, state = checkpoints_in(tmp_path, gang), small(gang)
    assert (checkpoints.seconds_to_save, checkpoints.stalled) == (None, 0)
    checkpoints.begin(state, 1, 0.1, metrics_bytes=0)
    time.sleep(3)
    assert checkpoints.stalled < 3
    # Longer than it may take to get from here to the wait.
    threading.Timer(3, gate.opened.set).start()
    checkpoints.finish()
    assert checkpoints.stalled >= 0.3
    assert checkpoints.seconds_to_save is not None
    assert checkpoints.seconds_to_save >= 5


def test_who_waits_shows_life_only_while_something_is_written(
    gang: Gang, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_POLL_SECONDS", 0.01)
    ticks: list[None] = []
    checkpoints, state = checkpoints_in(tmp_path, gang, tick=lambda: ticks.append(None)), small(gang)
    checkpoints.begin(state, 1, 0.1, metrics_bytes=0)
    waiting = threading.Thread(target=checkpoints.finish)
    waiting.start()
    # It hangs.
    wait_until(lambda: gate.waiting == 1)
    time.sleep(0.2)
    seen = len(ticks)
    time.sleep(0.2)
    assert len(ticks) == seen <= 2
    # It gets on.
    (tmp_path / "resume" / "step-00000001.incomplete" / "more").write_bytes(b"x")
    wait_until(lambda: len(ticks) > seen)
    gate.opened.set()
    waiting.join(PATIENCE)


def test_a_state_saved_aside_does_not_wait_for_the_one_that_is_under_way(
    gang: Gang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, state = checkpoints_in(tmp_path, gang), small(gang)
    gate, write = Gate(), dcp.save

    def save_some(*given: object, **named: object) -> object:
        beside = threading.current_thread().name.startswith("saving")
        return (gate if beside else write)(*given, **named)

    monkeypatch.setattr(dcp, "save", save_some)
    for step in (1, 2):
        advance(state)
        if step == 1:
            checkpoints.begin(state, 1, 0.1, metrics_bytes=0)
    wait_until(lambda: gate.waiting == 1)
    checkpoints.save_aside(state, 2, 0.2, metrics_bytes=0)
    assert [path.name for path in tmp_path.glob("resume/*[0-9]")] == ["step-00000002"]
    gate.opened.set()
    checkpoints.finish()
    other = small(gang)
    assert checkpoints.restore(other).step == 2
    assert_same(content(other), expected(2))


def test_a_state_that_is_there_is_not_saved_aside_again(gang: Gang, tmp_path: Path) -> None:
    checkpoints, state = checkpoints_in(tmp_path, gang), small(gang)
    there = save(checkpoints, state, 1).stat().st_ino
    checkpoints.save_aside(state, 1, 0.1, metrics_bytes=0)
    assert checkpoints.storage.state_after(1).stat().st_ino == there


def save_and_restore(gang: Gang, directory: Path) -> str:
    checkpoints, state = checkpoints_in(directory, gang), small(gang)
    for step in (1, 2, 3):
        advance(state)
        checkpoints.begin(state, step, step / 10, metrics_bytes=0)
    advance(state)
    checkpoints.finish()
    other = small(gang)
    assert checkpoints.restore(other).step == 3
    assert_same(content(other), expected(3))
    return ",".join(sorted(path.name for path in checkpoints.storage.resume.iterdir()))


def restore(gang: Gang, directory: Path) -> bool:
    state = small(gang)
    assert checkpoints_in(directory, gang).restore(state).step == 3
    assert_same(content(state), expected(3))
    return True


@pytest.mark.parametrize("world_size", [1, 3])
def test_several_processes_save_together_and_any_number_goes_on(world_size: int, tmp_path: Path) -> None:
    assert together(world_size, save_and_restore, tmp_path) == ["step-00000002,step-00000003"] * world_size
    assert together(2, restore, tmp_path) == [True, True]


def fail_on_one(gang: Gang, directory: Path) -> tuple[str, ...]:
    """The third process may write only small files for a while."""
    checkpoints, state = checkpoints_in(directory, gang), small(gang, width=400)
    save(checkpoints, state, 1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if gang.rank == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    failures = []
    for save_now in (checkpoints.begin, checkpoints.save_aside):
        try:
            save_now(state, 2, 0.2, 0)
            checkpoints.finish()
        except TrainerError as error:
            failures.append(str(error))
        gang.meet()
        failures += [path.name for path in checkpoints.storage.resume.iterdir()]
        gang.meet()
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert checkpoints.finish() is None
    save(checkpoints, state, 3)
    return tuple(failures)


def test_a_failure_of_one_process_is_told_to_all_and_leaves_what_was_there(tmp_path: Path) -> None:
    for rank, told in enumerate(together(3, fail_on_one, tmp_path)):
        for message, *left in (told[:2], told[2:]):
            assert "File too large" in message
            assert message.startswith("rank 2: ") == (rank != 2)
            assert left == ["step-00000001"]


def fail_to_agree(gang: Gang, _: Path) -> tuple[str, str, list[int]]:
    """The second process fails at its part of something; later nobody does."""
    circle = Circle()

    def work() -> int:
        if gang.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return gang.rank

    try:
        circle.everyone(work)
    except (OSError, TrainerError) as error:
        told = type(error).__name__, str(error)
    return *told, circle.everyone(lambda: 10 * gang.rank)


def test_a_failure_at_one_s_part_is_everybody_s(tmp_path: Path) -> None:
    first, second = together(2, fail_to_agree, tmp_path)
    assert first[0] == "StorageFullError"
    assert first[1].startswith("rank 1: the storage volume is full")
    assert second[:2] == ("OSError", "[Errno 28] No space left on device")
    assert first[2] == second[2] == [0, 10]


def lose_one(gang: Gang, directory: Path) -> tuple[str, float]:
    checkpoints, state = checkpoints_in(directory, gang), small(gang)
    save(checkpoints, state, 1)
    if gang.rank == 1:
        # In the middle of its share.
        dcp.FileSystemWriter.write_data = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    checkpoints.begin(state, 2, 0.2, metrics_bytes=0)
    begun = time.monotonic()
    with pytest.raises(PeerLostError) as raised:
        checkpoints.finish()
    return str(raised.value), time.monotonic() - begun


def test_nobody_waits_for_a_process_that_was_killed(tmp_path: Path) -> None:
    (told, seconds), killed = together(2, lose_one, tmp_path)
    assert killed == -signal.SIGKILL
    assert told.startswith("another process of the gang went away")
    assert seconds < 30
    assert [path.name for path in tmp_path.glob("resume/*[0-9]")] == ["step-00000001"]


def save_until_killed(gang: Gang, directory: Path, nth: int) -> None:
    """Save a second state, and be killed just before the nth change to the directory."""
    checkpoints, state = checkpoints_in(directory, gang, keep_last=1), small(gang)
    advance(state)
    save(checkpoints, state, 1)
    advance(state)
    left = count(nth - 1, -1)

    def on_event(event: str, given: tuple[object, ...]) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod")
        writes = event == "open" and isinstance(given[2], int) and given[2] & os.O_CREAT
        if (changes or writes) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)
    save(checkpoints, state, 2)


def test_killed_at_any_moment_it_leaves_the_old_state_or_the_new(gang: Gang, tmp_path: Path) -> None:
    found = []
    for nth in count(1):
        directory = tmp_path / str(nth)
        [end] = together(1, save_until_killed, directory, nth)
        state = small(gang)
        step = checkpoints_in(directory, gang).restore(state).step
        assert_same(content(state), expected(step))
        found.append(step)
        if end is None:
            break
        assert end == -signal.SIGKILL
    assert set(found) == {1, 2}
    # The old one until the new one is there.
    assert found == sorted(found)
    assert found.count(1) > 5


def fill(gang: Gang, directory: Path) -> tuple[int, str, list[str]]:
    """Save ever larger states until the volume is full."""
    checkpoints = checkpoints_in(directory, gang)
    saved = 0
    try:
        for step, width in enumerate(range(100, 2000, 100), start=1):
            save(checkpoints, small(gang, width=width), step)
            saved = step
    except StorageFullError as error:
        told = str(error)
    gang.meet()
    state = small(gang, width=100 * saved)
    assert checkpoints.restore(state).step == saved
    return saved, told, sorted(path.name for path in checkpoints.storage.resume.iterdir())


@needs_mount
def test_a_full_volume_keeps_what_was_complete_and_gives_the_rest_back(tmp_path: Path) -> None:
    inside = small_volume(tmp_path / "volume", "3m")
    script = (
        "import sys, pathlib; from trainer.states import together; from trainer.test_saving import fill\n"
        "if __name__ == '__main__': print(together(2, fill, pathlib.Path(sys.argv[1])))"
    )
    (tmp_path / "script.py").write_text(script)
    output = subprocess.run(
        [*inside, sys.executable, str(tmp_path / "script.py"), str(tmp_path / "volume")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert output.returncode == 0, output.stderr
    (saved, first, names), (_, second, _) = eval(output.stdout)
    for told in (first.removeprefix("rank 1: "), second.removeprefix("rank 0: ")):
        assert told.startswith("the storage volume is full")
    assert names == [f"step-{step:08d}" for step in (saved - 1, saved)]
