"""Background processes that outlive the command which started them, and are never mistaken for others.

A process is known by its id, its start time and the boot it was started in: once the kernel has given the id to
another process, the record no longer matches and that other process is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clusters.console import ClusterError


@dataclass(frozen=True)
class ProcessRecord:
    """Identifies one process for ever; start_time is in clock ticks after boot, as in /proc/PID/stat."""

    pid: int
    start_time: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """The record of the process that has the id `pid` now.

        Raises:
            ProcessLookupError: there is no such process.
        """
        return cls(pid, parse_stat(_read_stat(pid))[1], _boot_id())

    @classmethod
    def load(cls, file: Path) -> ProcessRecord | None:
        """The record kept in `file`; None when there is none, or only what a crash left of one."""
        try:
            return cls(**json.loads(file.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def save(self, file: Path) -> None:
        """Keep the record in `file`."""
        file.write_text(json.dumps(asdict(self)) + "\n")

    def is_running(self) -> bool:
        """Whether exactly this process still runs; a zombie does not."""
        try:
            state, start_time = parse_stat(_read_stat(self.pid))
        except ProcessLookupError:
            return False
        return start_time == self.start_time and _boot_id() == self.boot_id and state not in "ZX"

    def open(self) -> int | None:
        """A pidfd that stands for exactly this process; None when it no longer runs."""
        pidfd = _open(self.pid)
        # The descriptor pins the process it was opened for; only now does the comparison mean anything.
        if pidfd is None or self.is_running():
            return pidfd
        os.close(pidfd)
        return None


def parse_stat(stat: str) -> tuple[str, int]:
    """State letter and start time of a /proc/PID/stat line, whose second field may hold spaces and parentheses."""
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def _read_stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# A Supervisor's prefix with which the kernel kills each process when the thread that started it ends.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


class Supervisor:
    """Starts and stops the processes of one cluster; keeps their records and logs in its folder."""

    def __init__(self, directory: Path, *, prefix: Sequence[str] = ()) -> None:
        """`prefix`: the start of every command line, a program that becomes the one named after it."""
        self._run = directory / "run"
        self._logs = directory / "logs"
        self._prefix = prefix
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start the process `name` unless it runs already. Its output is appended to logs/NAME.log."""
        if self.running(name):
            return
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                [*self._prefix, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        ProcessRecord.of(child.pid).save(self._record(name))
        self._children[name] = child

    def running(self, name: str) -> ProcessRecord | None:
        """The record of the process `name` while it runs."""
        record = ProcessRecord.load(self._record(name))
        return record if record and record.is_running() else None

    def started(self) -> list[str]:
        """Names of all processes that were started and not stopped, whether or not they still run."""
        return sorted(file.stem for file in self._run.glob("*.pid"))

    def forget_ended(self) -> None:
        """Drop the records of processes that have ended by themselves: they are to be started anew."""
        for name in self.started():
            if not self.running(name):
                self._forget(name)

    def stop(self, names: Iterable[str], *, grace: float) -> None:
        """End the named processes together: SIGTERM, and SIGKILL to those that outlast `grace` seconds."""
        names = list(names)
        opened = {name: record.open() for name in names if (record := ProcessRecord.load(self._record(name)))}
        pidfds = [pidfd for pidfd in opened.values() if pidfd is not None]
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            for pidfd in pidfds:
                signal.pidfd_send_signal(pidfd, number)
            pidfds = _wait_for_exit(pidfds, patience)
        if pidfds:
            raise ClusterError(f"{', '.join(names)}: a process survives SIGKILL, see {self._run}")
        for name in names:
            self._forget(name)

    def check_all(self) -> None:
        """Raise a ClusterError with the end of its log when a process that was started does not run."""
        for name in self.started():
            if not self.running(name):
                raise ClusterError(f"{name} has ended; {self.log_tail(name)}")

    def describe(self, name: str) -> str:
        """One line on how the process `name` does."""
        if record := self.running(name):
            resident = int(Path(f"/proc/{record.pid}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
            return f"{name:<20} running as {record.pid}, {resident / 2**20:.0f} MiB"
        return f"{name:<20} NOT running; its log: {self.log(name)}"

    def log(self, name: str) -> Path:
        """The file that holds what the process `name` printed."""
        return self._logs / f"{name}.log"

    def log_tail(self, name: str, lines: int = 12) -> str:
        """Where the log of `name` is and its last lines, for an error message."""
        try:
            tail = self.log(name).read_text(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return "it has no log"
        return "\n".join([f"the end of {self.log(name)}:", *tail])

    def _forget(self, name: str) -> None:
        if child := self._children.pop(name, None):
            child.wait()  # it has ended, and is a zombie until its parent has asked for its exit code
        self._record(name).unlink(missing_ok=True)

    def _record(self, name: str) -> Path:
        return self._run / f"{name}.pid"


def kill_all(members: Callable[[], set[int]], *, seconds: float = 10.0) -> None:
    """SIGKILL every process in `members()`, again and again until there is none left.

    Raises:
        ClusterError: some are left after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while pids := members():
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {sorted(pids)} survive SIGKILL")
        opened = {pid: pidfd for pid in pids if (pidfd := _open(pid)) is not None}
        # Ask once more: an id may have passed to another process before it was opened, but not since.
        pids = members()
        for pid, pidfd in opened.items():
            if pid in pids:
                # One that has ended meanwhile needs no signal.
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in _wait_for_exit(opened.values(), 1.0):
            os.close(pidfd)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _wait_for_exit(pidfds: Iterable[int], patience: float) -> list[int]:
    """Wait up to `patience` seconds; close the descriptors of ended processes and return the others."""
    deadline = time.monotonic() + patience
    left = list(pidfds)
    while left and (remaining := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(left, [], [], remaining)
        for pidfd in ended:
            os.close(pidfd)
            left.remove(pidfd)
    return left
