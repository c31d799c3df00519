"""The time of day, and whether it was set."""

from datetime import datetime, timedelta

from finetune_operator.clock import JUMP, Clock
from world import START

HOURS = timedelta(hours=5)


class Machine:
    """One whose clock can be set."""

    def __init__(self) -> None:
        self.time = START
        self.seconds = 100.0
        self.jumps: list[datetime] = []
        self.clock = Clock(lambda: self.time, self.jumps.append, steady=lambda: self.seconds)

    def wait(self, time: timedelta) -> None:
        self.time += time
        self.seconds += time.total_seconds()


def test_time_that_passes_is_no_jump_however_much_it_is() -> None:
    machine = Machine()
    for time in (timedelta(), timedelta(seconds=1), HOURS):
        machine.wait(time)
        assert machine.clock() == machine.time
    assert not machine.jumps


def test_a_clock_that_is_set_forward_tells_so_once_before_it_tells_the_time() -> None:
    machine = Machine()
    machine.time += HOURS
    assert machine.clock() == START + HOURS
    assert machine.jumps == [START + HOURS]
    machine.wait(HOURS)
    machine.clock()
    assert len(machine.jumps) == 1


def test_one_that_is_set_back_tells_so_too() -> None:
    """What was to be heard from a time on that is to come again would not be missed for as long."""
    machine = Machine()
    for time in (HOURS, -HOURS):
        machine.time += time
        machine.clock()
    assert machine.jumps == [START + HOURS, START]


def test_one_that_is_set_by_a_little_tells_nothing() -> None:
    machine = Machine()
    for time in (JUMP, -JUMP, -JUMP):
        machine.time += time
        machine.clock()
    assert not machine.jumps
