"""Background processes are found again, ended for certain, and never confused with others."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.console import ClusterError
from clusters.processes import DIE_WITH_PARENT, ProcessRecord, Supervisor, kill_all, parse_stat


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop(supervisor.started(), grace=0)


def record_file(tmp_path: Path, name: str) -> Path:
    return tmp_path / "run" / f"{name}.pid"


def recycle(file: Path) -> None:
    """Make the record one of an earlier process that had the same id."""
    record = ProcessRecord.load(file)
    assert record is not None
    dataclasses.replace(record, start_time=record.start_time - 1).save(file)


def wait_for_text(file: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in file.read_text():
        assert time.monotonic() < deadline, f"{file} does not say {text!r}"
        time.sleep(0.01)


def test_stat_of_a_program_with_a_hostile_name() -> None:
    fields = " ".join(["4711", "(a) R (b c))", "S", *map(str, range(4, 22)), "123456", "0"])
    assert parse_stat(fields) == ("S", 123456)


def test_a_record_knows_its_process_again(tmp_path: Path) -> None:
    record = ProcessRecord.of(os.getpid())
    record.save(tmp_path / "record")
    assert ProcessRecord.load(tmp_path / "record") == record
    assert record.is_running()


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot_id": "another boot"}])
def test_another_process_with_the_same_id_is_not_it(change: dict[str, int | str]) -> None:
    record = dataclasses.replace(ProcessRecord.of(os.getpid()), **change)  # type: ignore[arg-type]
    assert not record.is_running()
    assert record.open() is None


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["sleep", "60"])
    record = ProcessRecord.of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not record.is_running()
    child.wait()


def test_half_a_record_is_none(tmp_path: Path) -> None:
    (tmp_path / "record").write_text('{"pid": 1, "start')
    assert ProcessRecord.load(tmp_path / "record") is None


def test_a_started_process_outlives_the_supervisor_and_is_found_by_the_next(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    supervisor.start("server", ["sh", "-c", "echo hello; exec sleep 60"])
    found = Supervisor(tmp_path).running("server")
    assert found is not None
    wait_for_text(tmp_path / "logs" / "server.log", "hello")

    supervisor.start("server", ["sleep", "60"])
    assert supervisor.running("server") == found, "it was started twice"


def test_stop_ends_even_those_that_do_not_want_to(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"])
    wait_for_text(tmp_path / "logs" / "stubborn.log", "ready")
    record = supervisor.running("stubborn")
    assert record is not None
    supervisor.stop(["stubborn"], grace=0.2)
    assert not record.is_running()
    assert supervisor.started() == []


def test_stop_gives_time_to_end_in_good_order(tmp_path: Path, supervisor: Supervisor) -> None:
    script = "trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.05; done"
    supervisor.start("polite", ["sh", "-c", script])
    wait_for_text(tmp_path / "logs" / "polite.log", "ready")
    supervisor.stop(["polite"], grace=10)
    assert (tmp_path / "logs" / "polite.log").read_text().endswith("bye\n")


def test_stop_leaves_alone_who_got_the_id_afterwards(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start("server", ["sleep", "60"])
    innocent = supervisor.running("server")
    assert innocent is not None
    recycle(record_file(tmp_path, "server"))
    Supervisor(tmp_path).stop(["server"], grace=0)
    assert innocent.is_running()
    innocent.save(record_file(tmp_path, "server"))


def test_an_ended_process_is_reported_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start("broken", ["sh", "-c", "echo the port is taken"])
    deadline = time.monotonic() + 10
    while supervisor.running("broken") and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(ClusterError, match=r"broken has ended.*(?s:.)*the port is taken"):
        supervisor.check_all()
    supervisor.forget_ended()
    supervisor.check_all()


def test_processes_of_a_dead_parent_die(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from clusters.processes import *\n"
        f"Supervisor(Path({str(tmp_path)!r}), prefix=DIE_WITH_PARENT).start('child', ['sleep', '60'])"
    )
    search_path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": search_path}, check=True)
    record = ProcessRecord.load(record_file(tmp_path, "child"))
    assert record is not None
    deadline = time.monotonic() + 10
    while record.is_running():
        assert time.monotonic() < deadline, f"it outlived its parent, in spite of {DIE_WITH_PARENT}"
        time.sleep(0.01)


def test_kill_all_goes_on_until_nobody_is_left() -> None:
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    asked = 0

    def members() -> set[int]:
        nonlocal asked
        asked += 1
        late = children if asked > 2 else children[:2]  # the third appears while the others are being killed
        return {child.pid for child in late if child.poll() is None}

    kill_all(members)
    assert [child.wait() for child in children] == [-signal.SIGKILL] * 3


def test_kill_all_does_not_kill_who_has_left() -> None:
    child = subprocess.Popen(["sleep", "60"])
    answers = iter([{child.pid}, set(), set()])
    kill_all(lambda: next(answers))
    assert child.poll() is None
    child.kill()
    child.wait()


def test_kill_all_minds_nobody_who_ends_by_himself() -> None:
    child = subprocess.Popen(["sleep", "60"])
    asked = 0

    def members() -> set[int]:
        nonlocal asked
        asked += 1
        if asked == 2:  # between having been found and being killed
            child.kill()
            child.wait()
        return {child.pid} if asked < 3 else set()

    kill_all(members)
    assert asked == 3
