"""Requests to stop, whenever they come."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from finetune_trainer.ends.signals import Stop


@pytest.fixture
def stop() -> Iterator[Stop]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield Stop()
    for number, handler in before.items():
        signal.signal(number, handler)


def sleeping() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_is_passed_on(stop: Stop, number: signal.Signals) -> None:
    with sleeping() as process:
        stop.passes_to(process)
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert process.wait(10) == -signal.SIGTERM
    assert stop.requested


def test_a_request_that_came_before_is_passed_on_too(stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with sleeping() as process:
        stop.passes_to(process)
        assert process.wait(10) == -signal.SIGTERM
