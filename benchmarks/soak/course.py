"""The run: jobs and faults side by side, and a measurement every minute."""

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.soak.figures import Course
from benchmarks.soak.lives import LATE_SECONDS, Life
from benchmarks.soak.measures import measure
from benchmarks.soak.place import Place
from benchmarks.soak.plan import faults, job
from benchmarks.soak.story import STORIES
from benchmarks.soak.strikes import strike

AT_ONCE = 3
_MINUTE = 60.0


class Soak:
    """One run; what came of it so far is in `course`, whatever ends it."""

    def __init__(self, place: Place, seed: int, minutes: float, say: Callable[[str], None]) -> None:
        self.course = Course(seed)
        self._place = place
        self._seed = seed
        self._seconds = minutes * _MINUTE
        self._say = say
        self._faults = faults(seed, self._seconds)
        self._lives: list[Life] = []
        self._number = 0

    def run(self) -> None:
        """Start jobs and let faults happen for so many minutes, then let those jobs come to their ends."""
        self.course.before = measure(self._place)
        start = time.monotonic()
        next_measurement = 0.0
        while (now := time.monotonic() - start) < self._seconds or self._lives:
            if now < self._seconds:
                self._start_jobs()
            elif now > self._seconds + LATE_SECONDS:
                break  # jobs under way have been found late by then, and their removal is waited for
            self._look()
            self._strike(now)
            if now >= next_measurement and now < self._seconds:
                self._measure(now)
                next_measurement += _MINUTE
            time.sleep(1)
        self.course.after = measure(self._place)
        self._write({"after": self.course.after})

    def _start_jobs(self) -> None:
        while len(self._lives) < AT_ONCE:
            self._number += 1
            self._lives.append(Life(self._place, job(self._seed, self._number)))

    def _look(self) -> None:
        found = {
            wire["metadata"]["name"]: wire for wire in self._place.ask("GET", self._place.job_path())["items"]
        }
        for life in self._lives:
            life.look(found.get(life.plan.name))
            if life.is_over:
                self.course.ended(life.plan, life.attempts, life.problems)
                self._write({"ended": life.plan.name, "attempts": life.attempts, "problems": life.problems})
                for problem in life.problems:
                    self._say(f"{life.plan.name} ({life.plan.ending}) {problem}")
        self._lives = [life for life in self._lives if not life.is_over]
        self.course.under_way = [life.plan.name for life in self._lives]

    def _strike(self, now: float) -> None:
        # What was held up by a longer fault comes now, one at a time.
        if self._faults and self._faults[0].second <= now:
            plan = self._faults.pop(0)
            hit = strike(self._place, plan)
            if hit is not None:
                self.course.faults.append((now, plan.fault, hit))
                self._write({"second": round(now), "fault": plan.fault, "hit": hit})

    def _measure(self, now: float) -> None:
        measured = measure(self._place)
        self.course.measured.append({"second": now, **measured})
        self._write(self.course.measured[-1])
        kinds = Counter(ended.plan.ending for ended in self.course.ends)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        self._say(
            f"minute {now / _MINUTE:.0f}: {len(self.course.ends)} jobs ended ({told or 'none'}), "
            f"{len(self.course.lost)} lost, {len(self._lives)} under way; {len(self.course.faults)} faults, "
            f"{self.course.restarts} restarts; operator {measured.get('operator_resident_mib', 0):.0f} MiB, "
            f"{measured.get('operator_descriptors', 0):.0f} descriptors; {measured['pods']} pods"
        )

    def _write(self, happened: dict[str, Any]) -> None:
        """Keep what has happened at once, beside the stories of lost jobs, which it may explain."""
        STORIES.mkdir(parents=True, exist_ok=True)
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **happened}
        with (STORIES / "course.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
