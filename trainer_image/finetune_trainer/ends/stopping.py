"""Being asked to stop, by SIGTERM or SIGINT. Free of torch: signals may come before anything is imported."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from finetune_trainer.ends.errors import TerminatedError

# What the first process needs, out of the grace period, to tell how the workers ended.
FAREWELL_SECONDS = 5
# How often a process asks whether another was asked to stop.
FOLLOW_SECONDS = 0.5
# What the main thread gets to come out of whatever it is in.
_REACTION_SECONDS = 2.0
_NOTHING_TO_SAVE = "asked to stop before training began: there is nothing new to save"


class Companions(Protocol):
    """The gang, as far as stopping before training goes."""

    def call_off(self) -> None:
        """Tell the others that this process has to go."""

    def called_off(self) -> bool:
        """Whether another one has told so."""


class StopRequest:
    """Ends this process at once while there is nothing to save; later only takes note, for the loop to ask."""

    def __init__(self, end: Callable[[str], NoReturn]) -> None:
        """`end` tells why, and ends the process from another thread than the main one."""
        self._end = end
        self._time: float | None = None
        self._raised = False
        self._companions: Companions | None = None
        self.deferred = False
        """Whether there may be something to save."""
        # Python runs handlers in the main thread, between two of its instructions; a collective or the building of a
        # model is one, and may take minutes. The system writes each signal into this pipe at once.
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        threading.Thread(target=self._listen, args=(reading,), name="signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._time is not None

    def seconds_left(self, grace_period: float) -> float:
        """Time to save something before this process is killed; all that there would be if it was not asked to stop."""
        waited = 0.0 if self._time is None else time.monotonic() - self._time
        return grace_period - FAREWELL_SECONDS - waited

    def defer(self) -> None:
        """From now on only take note."""
        self.deferred = True

    def follow(self, companions: Companions) -> None:
        """Until `defer`, stop together with the others: one pod alone is told that it has to go."""
        self._companions = companions
        threading.Thread(target=self._follow, args=(companions,), name="follow", daemon=True).start()

    def _listen(self, reading: int) -> None:
        while os.read(reading, 1):
            self._note()
            if not self.deferred:
                time.sleep(_REACTION_SECONDS)
            if not (self.deferred or self._raised):
                if self._companions:
                    self._companions.call_off()
                self._end(_NOTHING_TO_SAVE)

    def _follow(self, companions: Companions) -> None:
        while not (self.deferred or self.requested):
            if companions.called_off():
                # As if it was asked to stop itself.
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(FOLLOW_SECONDS)

    def _note(self) -> None:
        if self._time is None:
            self._time = time.monotonic()

    def _on_signal(self, *_: object) -> None:
        self._note()
        # Once: a second signal must not disturb how the first one is told.
        if not (self.deferred or self._raised):
            self._raised = True
            raise TerminatedError(_NOTHING_TO_SAVE)
