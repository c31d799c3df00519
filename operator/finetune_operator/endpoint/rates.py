"""Pure: so much at once, and then so much a second, for each of many."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Rates(Generic[Key]):
    """The generic cell rate algorithm: of each key it remembers one moment, up to which its share is used up.

    Of more than `most` keys, those that were counted longest ago are forgotten.
    """

    def __init__(self, per_second: float, *, burst: int, most: int) -> None:
        self._every = 1 / per_second
        self._burst = burst * self._every
        self._most = most
        self._used: dict[Key, float] = {}

    def take(self, key: Key, now: float) -> float:
        """Seconds until one more of this key may be; 0 if it may now, and then it is counted.

        `now` is in seconds, too.
        """
        used = max(self._used.get(key, now), now)
        if used > now + self._burst + self._every:
            # Nobody gets so far ahead: the clock was put back.
            used = now
        if (wait := used + self._every - self._burst - now) > 0:
            return wait
        # The newest come last.
        self._used.pop(key, None)
        if len(self._used) >= self._most:
            del self._used[next(iter(self._used))]
        self._used[key] = used + self._every
        return 0.0

    def give_back(self, key: Key) -> None:
        """One that was counted was none."""
        if key in self._used:
            self._used[key] -= self._every
