"""The time of day, by which everything is decided, and whether it was set while the operator ran."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

logger = logging.getLogger(__name__)

# Clocks that are set right by and by never differ by as much from one look to the next.
JUMP = timedelta(minutes=1)


def utc_now() -> datetime:
    """The time as statuses carry it: UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


class Clock:
    """Tells the time; where more or less of it has passed than can have, tells that first.

    So it is when a clock is set, and when a machine has slept. From what was noted before nobody can tell how long ago
    that was.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        jumped: Callable[[datetime], None],
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`jumped` is told the time after a jump; `steady` counts seconds, whatever is done to clocks."""
        self._now = now
        self._jumped = jumped
        self._steady = steady
        self._last = now(), steady()

    def __call__(self) -> datetime:
        """The time."""
        (before, since), now, seconds = self._last, self._now(), self._steady()
        self._last = now, seconds
        ahead = now - before - timedelta(seconds=seconds - since)
        if abs(ahead) > JUMP:
            by, where = abs(ahead), "ahead of" if ahead > JUMP else "behind"
            logger.warning("the clock is %s %s what it was: it was set, or this machine slept", by, where)
            self._jumped(now)
        return now
