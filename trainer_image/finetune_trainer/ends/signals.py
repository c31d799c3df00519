"""SIGTERM and SIGINT to a container's first process, which does nothing about them by default.

Imports nothing heavy: a signal may be the first thing that comes.
"""

import signal
from typing import Protocol


class Stoppable(Protocol):
    """What is to stop with this process."""

    def terminate(self) -> None:
        """Ask it to save its state and go."""


class Stop:
    """Takes note of requests to stop, and passes them on."""

    def __init__(self) -> None:
        self.requested = False
        self._running: Stoppable | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def passes_to(self, running: Stoppable) -> None:
        """Pass requests on from now on, and one that came while this was being started."""
        self._running = running
        if self.requested:
            running.terminate()

    def comes_too_late(self) -> None:
        """All is told: a request changes nothing any more.

        Where Python has a handler of its own it gives it up as it ends, and the signal would end the process in the
        place of its exit code. So it is with whoever ends together with a peer, and is asked to for the peer's sake.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if self._running is not None:
            self._running.terminate()
