"""SIGTERM from outside, at times that nobody chose: what is done is saved, and nothing comes out differently."""

import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from trainer import forked
from trainer.faults import slowly
from trainer.gangs import PATIENCE
from trainer.survival import LINGER, Course, Result

STOPS = 6


def ask(gang: forked.Gang, rank: int) -> None:
    with suppress(ProcessLookupError):
        gang.signal(rank, signal.SIGTERM)


def stopped(course: Course, world_size: int, asked: tuple[int, ...], draw: random.Random) -> list[int | None]:
    """One attempt that is asked to stop some time after it has made so many steps."""
    course.attempts += 1
    before, lines = course.newest_state(), len(course.lines())
    with forked.running(course.config(world_size), attempt=course.attempts, beforehand=slowly) as gang:
        steps, deadline = draw.choice([0, 1, 2, 3]), time.monotonic() + PATIENCE
        while len(course.lines()) < lines + steps and gang.processes[0].is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        # From its very beginning until it trains; or in the middle of a step.
        time.sleep(draw.random() * (0.06 if steps else 0.5))
        for rank in asked:
            ask(gang, rank)
        for rank in asked:
            gang.processes[rank].join(PATIENCE)
        # Who waits for one that went before it had joined is taken away as well, as the operator does.
        for rank, code in enumerate(gang.wait(LINGER)):
            if code is None:
                ask(gang, rank)
        codes = gang.wait()
        told = f"{codes}\n{gang.output()}"
    if codes == [0] * world_size:
        # Nothing was left but to write the result.
        assert course.is_finished(), told
        return codes
    # Before a process listens, the signal itself ends it. Peers are told, or notice.
    assert set(codes) <= {ExitCode.TERMINATED, ExitCode.COLLECTIVE_TIMEOUT, -signal.SIGTERM}, told
    assert set(codes) & {ExitCode.TERMINATED, -signal.SIGTERM}, told
    assert course.newest_state() >= before, told
    if steps:
        assert set(codes) == {ExitCode.TERMINATED}, told
        assert course.newest_state() == len(course.lines()), told
    return codes


@pytest.mark.parametrize(("world_size", "asked"), [(1, (0,)), (2, (0, 1)), (2, (1,))])
def test_asked_to_stop_at_any_time(
    survivors: Path, undisturbed: dict[int, Result], world_size: int, asked: tuple[int, ...]
) -> None:
    course, draw = Course(survivors, {"everySteps": 5}), random.Random(world_size + len(asked))
    ends: list[list[int | None]] = []
    while len(ends) < STOPS and not course.is_finished():
        ends.append(stopped(course, world_size, asked, draw))
    assert [ExitCode.TERMINATED] * world_size in ends
    assert course.finish(world_size) == undisturbed[world_size]
