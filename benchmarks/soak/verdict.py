"""Whether a job came to the end that it was meant for."""

from dataclasses import dataclass, field

from benchmarks.soak.plan import Ending, JobPlan

_REASONS = {
    Ending.INVALID_DATA: "InvalidData",
    Ending.LOSS_NOT_FINITE: "LossNotFinite",
    Ending.INVALID_CONFIGURATION: "InvalidConfiguration",
}


@dataclass(frozen=True)
class End:
    """What is found of a job when it is over, or is taken to be."""

    phase: str
    """Of its status; Refused or Deleted where there is none any more, and Late where it has not ended in time."""
    reason: str = ""
    """Of its condition Succeeded."""
    total_steps: int = 0
    """Of its plan."""
    last_step: int = 0
    """Of its progress."""
    steps: list[int] = field(default_factory=list)
    """Of the lines of its metrics, in their order."""
    missing_files: list[str] = field(default_factory=list)
    """Of its result."""
    left: list[str] = field(default_factory=list)
    """What is still there of it long after it was deleted."""


def problems(plan: JobPlan, end: End) -> list[str]:
    """What is not as it was meant to be, in words; nothing where all is."""
    return _of_end(plan, end) + _unless(not end.left, f"left {', '.join(end.left)} behind")


def _of_end(plan: JobPlan, end: End) -> list[str]:
    if plan.ending is Ending.REFUSED:
        return _unless(end.phase == "Refused", f"is {end.phase}, but the API server should have refused it")
    # One that was quicker than its deletion has to have succeeded.
    if plan.ending is Ending.DELETED and end.phase == "Deleted":
        return []
    if reason := _REASONS.get(plan.ending):
        told = f"{end.phase} ({end.reason})"
        return _unless(
            (end.phase, end.reason) == ("Failed", reason), f"is {told}, but should have failed: {reason}"
        )
    if end.phase != "Succeeded":
        return [f"is {end.phase} ({end.reason}), but should have succeeded"]
    return _of_success(plan, end)


def _of_success(plan: JobPlan, end: End) -> list[str]:
    found = _unless(not end.missing_files, f"succeeded without {', '.join(end.missing_files)}")
    if end.steps != list(range(1, end.last_step + 1)):
        found.append(f"told of the steps {_gist(end.steps)} in the place of 1 to {end.last_step}, each once")
    # Training may end before its last epoch where it is evaluated.
    complete = (
        0 < end.last_step <= end.total_steps if plan.evaluated else end.last_step == end.total_steps > 0
    )
    return found + _unless(complete, f"succeeded after step {end.last_step} of {end.total_steps}")


def _unless(holds: bool, problem: str) -> list[str]:
    return [] if holds else [problem]


def _gist(steps: list[int]) -> str:
    return " ".join(map(str, steps)) or "none"
