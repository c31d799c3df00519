"""What benchmarks read of processes in /proc."""

import os
import subprocess

import pytest

from benchmarks.usage import Usage, forget_peak, parse, usage

STAT = "7 (a) b (c) S 1 7 7 0 -1 4194560 99 0 0 0 250 150 0 0 20 0 3 0 100 5000 60 1 2"
STATUS = "Name:\ta) b (c\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"


def test_a_name_with_parentheses_moves_no_field() -> None:
    seconds = 400 / os.sysconf("SC_CLK_TCK")
    assert parse(STAT, STATUS) == Usage(seconds, 1024 * 1024, 2048 * 1024)


def test_several_processes_are_added_up() -> None:
    alone, twice = usage([os.getpid()]), usage([os.getpid(), os.getpid()])
    assert twice.resident_bytes > 1.5 * alone.resident_bytes > 0
    assert twice.peak_bytes >= twice.resident_bytes


def test_a_peak_can_be_forgotten() -> None:
    held = b"x" * (64 << 20)
    size = len(held)
    before = usage([os.getpid()]).peak_bytes
    del held
    forget_peak([os.getpid()])
    assert usage([os.getpid()]).peak_bytes <= before - size // 2


def test_a_process_that_has_ended_is_not_counted_as_nothing() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=str(ended.pid)):
        usage([ended.pid])
