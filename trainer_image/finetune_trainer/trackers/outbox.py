"""Measurements that wait for a service to take them."""

import logging
import threading
import time
from collections import deque

from finetune_trainer.trackers.redaction import redacted
from finetune_trainer.trackers.tracker import Ending, Point, Tracker

_log = logging.getLogger(__name__)

# What a service may be behind: hours of a large model. A point takes a few kilobytes.
_MOST_POINTS = 10_000
# Deliveries come no closer together, so that a fast run makes few large ones.
_INTERVAL = 2.0
# A service that fails is asked ever more rarely.
_LONGEST_PAUSE = 300.0


class Outbox:
    """Hands a tracker its points in a thread of its own, and again if it fails; the oldest are lost if that lasts."""

    def __init__(
        self, tracker: Tracker, *, capacity: int = _MOST_POINTS, interval: float = _INTERVAL
    ) -> None:
        self.name = tracker.name
        self._tracker = tracker
        self._interval = interval
        self._changed = threading.Condition()
        self._points: deque[Point] = deque(maxlen=capacity)
        self._lost = 0
        self._ending: Ending | None = None
        self._complaints: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=tracker.name, daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Add a point; never waits."""
        with self._changed:
            self._lost += len(self._points) == self._points.maxlen
            self._points.append(point)
            self._changed.notify()

    def close(self, ending: Ending) -> None:
        """Let no more points in, and have the tracker end the run once it has those that are left."""
        with self._changed:
            self._ending = ending
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait for the tracker to have ended the run, but not for long."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._complain("does not answer; what it has not taken is given up")
        if self._lost:
            _log.warning("%s did not keep up: %d steps are missing there", self.name, self._lost)

    def _run(self) -> None:
        begun, pause, last = False, self._interval, -float("inf")
        while points := self._take(last + pause):
            last = time.monotonic()
            try:
                if not begun:
                    self._tracker.begin(points[0].first_step)
                    begun = True
                self._tracker.log(points)
                pause = self._interval
            except Exception as error:  # noqa: BLE001 - whatever a service does, training goes on
                self._complain(f"{type(error).__name__}: {error}")
                pause = min(2 * pause, _LONGEST_PAUSE)
                if not self._put_back(points):
                    break
        if begun:
            assert self._ending is not None
            try:
                self._tracker.end(self._ending)
            except Exception as error:  # noqa: BLE001 - as above
                self._complain(f"{type(error).__name__}: {error}")

    def _take(self, earliest: float) -> list[Point]:
        """All points that there are, not before `earliest`; none when there are none left and none will come."""
        with self._changed:
            while self._ending is None:
                wait = earliest - time.monotonic()
                if self._points and wait <= 0:
                    break
                self._changed.wait(wait if self._points else None)
            points = list(self._points)
            self._points.clear()
            return points

    def _put_back(self, points: list[Point]) -> bool:
        """Keep points that were not taken, if they can be offered again."""
        with self._changed:
            if self._ending is not None:
                return False
            everything = [*points, *self._points]
            self._lost += max(0, len(everything) - (self._points.maxlen or 0))
            self._points.clear()
            self._points.extend(everything)
            return True

    def _complain(self, what: str) -> None:
        """Log the first trouble of a kind."""
        kind = what.partition(":")[0]
        if kind not in self._complaints:
            self._complaints.add(kind)
            _log.warning("%s: %s. Training goes on without it.", self.name, redacted(what))
