"""Being asked to stop: at once while there is nothing to save, on time whatever the main thread is in the middle of."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.failure import ExitCode

# Says when it is ready; what it does then is the test's.
_PROCESS = """
import hashlib, os, signal, sys, threading, time
from finetune_trainer.ends import stopping
from finetune_trainer.ends.errors import TerminatedError

def end(message):
    print("ended:", message, flush=True)
    os._exit(143)

# Asked to stop in the middle of it.
def in_one_instruction(rounds):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
    return time.monotonic() - began - 0.2

stopping._REACTION_SECONDS = {reaction}
stop = stopping.StopRequest(end)
try:
    print("ready", flush=True)
    {action}
except TerminatedError as error:
    print("raised:", error, flush=True)
    # Time for what must not happen.
    time.sleep(stopping._REACTION_SECONDS + 0.5)
    sys.exit(143)
"""


@contextmanager
def process(action: str, *, reaction: float = 5) -> Iterator[subprocess.Popen[str]]:
    """A process that does something, and can be asked to stop; its main thread has `reaction` seconds to hear of it."""
    script = _PROCESS.format(action=action, reaction=reaction)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def test_it_ends_what_the_main_thread_is_doing() -> None:
    with process("time.sleep(600)") as asked:
        asked.send_signal(signal.SIGTERM)
        # Another one must not disturb how the first is told.
        time.sleep(0.1)
        asked.send_signal(signal.SIGINT)
        said, _ = asked.communicate(timeout=60)
    assert said == "raised: asked to stop before training began: there is nothing new to save\n"
    assert asked.returncode == ExitCode.TERMINATED


def test_no_library_takes_it_for_an_error_of_its_own() -> None:
    library = """try:
        time.sleep(600)
    except Exception as error:
        raise RuntimeError("cannot load") from error"""
    with process(library) as asked:
        asked.send_signal(signal.SIGTERM)
        said, _ = asked.communicate(timeout=60)
    assert said == "raised: asked to stop before training began: there is nothing new to save\n"
    assert asked.returncode == ExitCode.TERMINATED


def test_it_ends_a_process_whose_main_thread_cannot_be_reached() -> None:
    with process("in_one_instruction(2**31 - 1)", reaction=0.5) as asked:
        said, _ = asked.communicate(timeout=60)
    assert said == "ended: asked to stop before training began: there is nothing new to save\n"
    assert asked.returncode == ExitCode.TERMINATED


def test_later_it_takes_note_and_counts_the_time_that_is_left_from_the_signal() -> None:
    busy = """stop.defer()
    before = stop.requested, stop.seconds_left(60)
    busy = in_one_instruction(4_000_000)
    print(*before, stop.requested, abs(55 - busy - stop.seconds_left(60)) < busy / 2, flush=True)"""
    with process(busy) as asked:
        said, _ = asked.communicate(timeout=60)
    assert said == "False 55.0 True True\n"
    assert asked.returncode == 0
