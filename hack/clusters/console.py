"""How the development cluster talks: news on standard error, so that standard output holds results only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ClusterError(Exception):
    """Something that the person at the keyboard can act on; its text says what is wrong and what to do."""


def say(text: str) -> None:
    """Print one line of news at once."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, then say how many seconds it took; nothing more is said of a step that failed."""
    print(f"{text} … ", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", file=sys.stderr, flush=True)
        raise
    say(f"{time.monotonic() - began:.1f} s")
