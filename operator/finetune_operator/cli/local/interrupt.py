"""Ctrl-C, and what else asks to stop."""

import signal
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Notes, while it is entered, which signal asked to stop, and whether that was asked more than once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.repeated = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.repeated = self.signal is not None
        self.signal = self.signal or number
