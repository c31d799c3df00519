"""Background processes that outlive the command which started them, and are never mistaken for others.

A process is known by its id, its start time and the boot it was started in: once the kernel has given the id to
another process, the record no longer matches and that other process is left alone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
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
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # The descriptor pins the process it was opened for; only now does the comparison mean anything.
        if self.is_running():
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


class Supervisor:
    """Starts and stops the processes of one cluster; keeps their records and logs in its folder."""

    def __init__(self, directory: Path, *, die_with_parent: bool = False) -> None:
        """`die_with_parent`: the kernel kills the processes when the thread that started them ends."""
        self._run = directory / "run"
        self._logs = directory / "logs"
        self._prefix = ["setpriv", "--pdeathsig", "KILL", "--"] if die_with_parent else []
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
            if child := self._children.pop(name, None):
                child.wait()
            self._record(name).unlink(missing_ok=True)

    def check(self, name: str) -> None:
        """Raise a ClusterError with the end of its log when the process `name` does not run."""
        if not self.running(name):
            raise ClusterError(f"{name} has ended; {self.log_tail(name)}")

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

    def _record(self, name: str) -> Path:
        return self._run / f"{name}.pid"


def _wait_for_exit(pidfds: list[int], patience: float) -> list[int]:
    """Wait up to `patience` seconds; close the descriptors of ended processes and return the others."""
    deadline = time.monotonic() + patience
    left = list(pidfds)
    while left and (remaining := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(left, [], [], remaining)
        for pidfd in ended:
            os.close(pidfd)
            left.remove(pidfd)
    return left
