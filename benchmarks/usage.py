"""What processes take of the machine, as /proc tells it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What one process, or several together, have taken so far."""

    cpu_seconds: float = 0.0
    """In all threads, in the kernel's work for them too, since they began."""
    resident_bytes: int = 0
    """Memory that they hold now."""
    peak_bytes: int = 0
    """The most that each has held, since it began or since `forget_peak`, added up."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            self.resident_bytes + other.resident_bytes,
            self.peak_bytes + other.peak_bytes,
        )


def usage(pids: Iterable[int]) -> Usage:
    """What the processes with these ids have taken so far, together.

    Raises:
        ProcessLookupError: one of them has ended; what it took is not told any more.
    """
    return sum(map(_of_one, pids), Usage())


def machine_cpu_seconds() -> float:
    """What all CPUs together have worked since the machine was started, for whomever."""
    # user, nice, system, idle, iowait, irq, softirq, steal
    user, nice, system, _, _, *others = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return sum((user, nice, system, *others)) / _TICKS_PER_SECOND


def forget_peak(pids: Iterable[int]) -> None:
    """Let the peak of each process be what it holds now, so that what follows can be told from what was before."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _of_one(pid: int) -> Usage:
    try:
        stat, status = (Path(f"/proc/{pid}/{name}").read_text() for name in ("stat", "status"))
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} has ended") from error
    return parse(stat, status)


def parse(stat: str, status: str) -> Usage:
    """Read what /proc/PID/stat and /proc/PID/status say."""
    # The second field is the program's name in parentheses, which may hold anything.
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime and stime, the 14th and 15th of all
    kibibytes = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in ("VmRSS", "VmHWM")
    }
    if len(kibibytes) < 2:
        raise ProcessLookupError("the process has no memory any more: it has ended")
    return Usage(ticks / _TICKS_PER_SECOND, kibibytes["VmRSS"] * 1024, kibibytes["VmHWM"] * 1024)
