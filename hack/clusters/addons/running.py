"""What runs as long as a context lasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Running(ABC):
    """Started when the context is entered, and stopped when it is left or when the start fails."""

    @abstractmethod
    def _start(self) -> None:
        """Start, and wait until it works."""

    @abstractmethod
    def _stop(self) -> None:
        """End what has been started, however much of it that is."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
