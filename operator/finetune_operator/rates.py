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

    def wait(self, key: Key, now: float) -> float:
        """Seconds until one more of this key may be, 0 if it may now. `now` is in seconds, too."""
        return max(0.0, self._used_up(key, now) + self._every - self._burst - now)

    def count(self, key: Key, now: float) -> None:
        """One more of this key has been."""
        used = self._used_up(key, now)
        # The newest come last.
        self._used.pop(key, None)
        if len(self._used) >= self._most:
            del self._used[next(iter(self._used))]
        self._used[key] = min(used + self._every, now + self._burst)

    def take(self, key: Key, now: float) -> float:
        """The same as `wait`; if it may, it is counted."""
        if (wait := self.wait(key, now)) == 0:
            self.count(key, now)
        return wait

    def _used_up(self, key: Key, now: float) -> float:
        used = self._used.get(key, now)
        # Nobody gets further ahead than a burst: the clock was put back.
        return now if used > now + self._burst else max(used, now)
