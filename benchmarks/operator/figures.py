"""Pure: ratios and percentiles of what was measured, and whether targets are met."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.operator.samples import Turn
from benchmarks.operator.systems import FLOOR, KUBEFLOW, OURS


@dataclass(frozen=True)
class Figure:
    """One number of the result, flat."""

    key: str
    value: float
    about: str
    target: float | None = None
    at_least: bool = True
    """Whether the target is to be reached, and not to be kept below."""

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    @property
    def bound(self) -> str:
        """The target for people."""
        if self.target is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.target:.2f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures(turns: Sequence[Turn]) -> list[Figure]:
    """All ratios of ours to the others; of what was not measured, because a system failed, there are none."""
    found: list[Figure] = []
    for limits in _in_order(turn.limits for turn in turns):
        # The headlines are those of clients as they are shipped.
        suffix = "" if limits == "default" else f"_{limits}"
        these = [turn for turn in turns if turn.limits == limits]
        ratios = [*_speed(these, suffix), *_after(these, suffix), *_cost(these, suffix)]
        found += [replace(ratio, about=f"{ratio.about}, limits {limits}") for ratio in ratios]
    return found


def _speed(turns: Sequence[Turn], suffix: str) -> list[Figure]:
    found = []
    for size in _in_order(turn.work.size for turn in turns if turn.work.pace != "steady"):
        these = [turn for turn in turns if turn.work.size == size and turn.work.pace != "steady"]
        shipped = not suffix
        for other, target in ((FLOOR, 1 / 1.1), (KUBEFLOW, 2.0 if size == "100x2" else None)):
            found += _ratio(
                f"jobs_per_s_vs_{other}_{size}{suffix}",
                these,
                other,
                lambda turn: turn.jobs_per_second,
                f"jobs/s against {_WORDS[other]}, {_sized(size)}",
                target=target if shipped else None,
            )
        found += _ratio(
            f"p99_latency_vs_kubeflow_{size}{suffix}",
            these,
            KUBEFLOW,
            lambda turn: percentile(turn.last_pod, 0.99),
            f"p99 of the time until a job's last pod against Kubeflow, {_sized(size)}",
        )
    steady = [turn for turn in turns if turn.work.pace == "steady"]
    for other in (FLOOR, KUBEFLOW):
        for share in (0.5, 0.99):
            found += _ratio(
                f"p{share * 100:.0f}_latency_vs_{other}_steady{suffix}",
                steady,
                other,
                lambda turn, share=share: percentile(turn.last_pod, share),  # type: ignore[misc]
                f"p{share * 100:.0f} of the time until a job's last pod against {_WORDS[other]}, steady pace",
            )
    return found


def _after(turns: Sequence[Turn], suffix: str) -> list[Figure]:
    found = []
    for what, words, times in (
        ("end_to_terminal", "from a job's last pod's end to its terminal status", _ended),
        ("suspend_to_gone", "from suspend to a job's last pod gone", _suspended),
    ):
        for size in _in_order(turn.work.size for turn in turns if times(turn)):
            these = [turn for turn in turns if turn.work.size == size and times(turn)]
            for other in (FLOOR, KUBEFLOW):
                found += _ratio(
                    f"{what}_vs_{other}_{size}{suffix}",
                    these,
                    other,
                    lambda turn, times=times: median(times(turn)),  # type: ignore[misc]
                    f"time {words} against {_WORDS[other]}, {_sized(size)}",
                )
    return found


def _ended(turn: Turn) -> list[float]:
    return turn.ended


def _suspended(turn: Turn) -> list[float]:
    return turn.suspended


def _cost(turns: Sequence[Turn], suffix: str) -> list[Figure]:
    whole = [turn for turn in turns if turn.work.size == "100x2" and turn.work.then == "finish"]
    burst = [turn for turn in turns if turn.work.size == "100x2" and turn.work.pace == "burst"]
    largest = [turn for turn in turns if turn.work.size == "500x2"]
    shipped = not suffix
    return [
        *_ratio(
            f"api_writes_per_job_vs_kubeflow{suffix}",
            whole,
            KUBEFLOW,
            lambda turn: turn.writes.total(),
            "API writes of the controllers per job, from its making to its end, against Kubeflow, 100×2",
            target=1.0 if shipped else None,
            at_least=False,
        ),
        *_ratio(
            f"api_writes_with_controller_manager_vs_kubeflow{suffix}",
            whole,
            KUBEFLOW,
            lambda turn: turn.writes.total() + turn.manager_writes.total(),
            "API writes with those of the controller manager against Kubeflow, 100×2",
        ),
        *_ratio(
            f"controller_memory_vs_kubeflow{suffix}",
            largest,
            KUBEFLOW,
            lambda turn: turn.peak_bytes,
            "peak memory of the controllers against Kubeflow, 500×2",
            target=1.0 if shipped else None,
            at_least=False,
        ),
        *_ratio(
            f"controller_memory_vs_kubeflow_100x2{suffix}",
            burst,
            KUBEFLOW,
            lambda turn: turn.peak_bytes,
            "peak memory of the controllers against Kubeflow, 100×2",
        ),
        *_ratio(
            f"memory_growth_per_job_vs_kubeflow{suffix}",
            largest,
            KUBEFLOW,
            lambda turn: turn.growth_bytes,
            "growth of the controllers' memory per job against Kubeflow, 500×2",
            target=1.0 if shipped else None,
            at_least=False,
        ),
        *_ratio(
            f"cpu_seconds_per_job_vs_kubeflow{suffix}",
            burst,
            KUBEFLOW,
            lambda turn: turn.cpu_seconds,
            "CPU time of the controllers per job until its pods are there against Kubeflow, 100×2",
        ),
    ]


_WORDS = {FLOOR: "the floor", KUBEFLOW: "Kubeflow"}


def _ratio(
    key: str,
    turns: Sequence[Turn],
    other: str,
    value: Callable[[Turn], float],
    about: str,
    *,
    target: float | None = None,
    at_least: bool = True,
) -> list[Figure]:
    """The median of the ratios within repetitions of the same work; none if there is nothing to compare."""
    by_turn = {(turn.work, turn.repetition, turn.system): value(turn) for turn in turns}
    ratios = [
        ours / theirs
        for (work, repetition, system), ours in by_turn.items()
        if system == OURS and (theirs := by_turn.get((work, repetition, other), 0.0)) > 0
    ]
    return [Figure(key, median(ratios), about, target, at_least)] if ratios else []


def _sized(size: str) -> str:
    return size.replace("x", "×")


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
