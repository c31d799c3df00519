"""Being asked to stop, by SIGTERM or SIGINT. Free of torch: signals may come before anything is imported."""

import os
import signal
import threading
import time
from collections.abc import Callable

from finetune_trainer.errors import TerminatedError

# What the first process needs, out of the grace period, to tell how the workers ended.
FAREWELL_SECONDS = 5
# How often a process asks whether another was asked to stop.
FOLLOW_SECONDS = 0.5


class StopRequest:
    """Ends this process at once while there is nothing to save; later only takes note, for the loop to ask."""

    def __init__(self) -> None:
        self._time: float | None = None
        self._deferred = False
        # Python runs handlers between two instructions of the main thread, which may be a long time inside of one. The
        # time that is left counts from the signal itself, which the system writes into this pipe.
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
        """Time to save something until this process is killed, if it was asked to stop; else what there would be."""
        waited = 0.0 if self._time is None else time.monotonic() - self._time
        return grace_period - FAREWELL_SECONDS - waited

    def defer(self) -> None:
        """From now on only take note."""
        self._deferred = True

    def follow(self, called_off: Callable[[], bool]) -> None:
        """Until `defer`, stop as soon as another process of the gang was: one pod alone is told that it has to go."""
        threading.Thread(target=self._follow, args=(called_off,), name="call-off", daemon=True).start()

    def _listen(self, reading: int) -> None:
        while os.read(reading, 1):
            self._note()

    def _follow(self, called_off: Callable[[], bool]) -> None:
        while not (self._deferred or self.requested):
            if called_off():
                # The main thread may be anywhere; a signal gets it out of there.
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(FOLLOW_SECONDS)

    def _note(self) -> None:
        if self._time is None:
            self._time = time.monotonic()

    def _on_signal(self, *_: object) -> None:
        self._note()
        if not self._deferred:
            # Once: a second signal must not disturb how the first one is told.
            self._deferred = True
            raise TerminatedError("asked to stop before training began: there is nothing new to save")
