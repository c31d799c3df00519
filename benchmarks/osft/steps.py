"""Whole steps of the optimizer, of every system in turn, on the same tokens in one process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.osft.systems import SYSTEMS, batch

# peft's at the ratio of the others' headline alone: it takes longer than all of these.
RUNS: tuple[tuple[str, float], ...] = (
    ("sft", 1.0),
    ("ours", 0.25),
    ("mini_trainer", 0.25),
    ("ours", 0.5),
    ("mini_trainer", 0.5),
    ("peft OSF", 0.5),
)
REPETITIONS = 3


@dataclass(frozen=True)
class Steps:
    """The steps of one system at one ratio."""

    seconds: list[float] = field(default_factory=list)
    """The first step is not among them: it makes AdamW's moments."""
    losses: list[float] = field(default_factory=list)
    """Of all steps."""

    def over(self, other: "Steps") -> float:
        """How many times as long as those of another system that took turns with it."""
        return median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))

    def difference(self, other: "Steps") -> float:
        """The largest relative difference of a step's loss."""
        return max(abs(mine / theirs - 1) for mine, theirs in zip(self.losses, other.losses, strict=True))


def measure(
    base: Path, scratch: Path, runs: Sequence[tuple[str, float]] = RUNS
) -> dict[tuple[str, float], Steps]:
    """By system and ratio."""
    systems = {(name, ratio): SYSTEMS[name](base, ratio, scratch) for name, ratio in runs}
    found = {run: Steps() for run in systems}
    for repetition in range(-1, REPETITIONS):
        tokens = batch(repetition + 1)
        for run, system in systems.items():
            began = time.perf_counter()
            found[run].losses.append(system.step(tokens))
            if repetition >= 0:
                found[run].seconds.append(time.perf_counter() - began)
    return found
