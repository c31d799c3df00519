"""The result for people and for machines: tables, a plot, and flat JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.markdown import table
from benchmarks.operator.figures import percentile
from benchmarks.scale.course import Point, Result, Storm
from benchmarks.scale.figures import Figure, figures

_MIB = 2**20


_STORM = (
    "What changes",
    "Asked for each s",
    "Came each s",
    "Handled p50 s",
    "p99 s",
    "In the queue p99 ≤ s",
    "A look p99 ≤ s",
    "Looks each s",
    "Operator % of one CPU",
    "Machine % of all CPUs",
)


def write(result: Result, machine: str, folder: Path) -> str:
    """Write scale.json, .md and .png; returns the text."""
    found = figures(result)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {figure.key: round(figure.value, 4) for figure in found}
    (folder / "scale.json").write_text(json.dumps(flat, indent=1) + "\n")
    text = markdown(result, machine, found)
    (folder / "scale.md").write_text(text)
    if result.points:
        _plot(result.points, folder / "scale.png")
    return text


def markdown(result: Result, machine: str, found: Sequence[Figure]) -> str:
    """Targets first, then how it grows."""
    lines = ["# Many jobs: measured", "", f"{machine}.", ""]
    lines += ["Written by `make bench-scale`; what is measured, and how, is in the README one folder up.", ""]
    if result.points:
        size = result.points[-1].size
        about = f"With {size.running:,} running jobs of two pods and {size.finished:,} finished ones."
        lines += ["## Targets", "", about, "", *table(("", "Measured", "Target", ""), _targets(found)), ""]
    if result.failures:
        lines += ["## Not measured", "", *(f"- {failure}" for failure in result.failures), ""]
    header = (
        "Running",
        "Finished",
        "Restart s",
        "its CPU s",
        "Peak MiB",
        "At rest MiB",
        "CPU at rest %",
        "Reports each s",
    )
    lines += ["## How it grows", "", *table(header, [_row(point) for point in result.points]), ""]
    if result.storms:
        lines += ["## Storms of pod events", "", *table(_STORM, [_storm(one) for one in result.storms]), ""]
    rows = [
        (figure.about, f"`{figure.key}`", f"{figure.value:.2f}") for figure in found if figure.met is None
    ]
    lines += ["## Other numbers", "", *table(("", "Key", "Measured"), rows)]
    return "\n".join(lines) + "\n"


def _targets(found: Sequence[Figure]) -> list[tuple[str, str, str, str]]:
    return [
        (figure.about, f"{figure.value:.1f}", f"≤ {figure.at_most:g}", "met" if figure.met else "**missed**")
        for figure in found
        if figure.at_most is not None
    ]


def _row(point: Point) -> tuple[str, ...]:
    return (
        f"{point.size.running:,}",
        f"{point.size.finished:,}",
        f"{point.restart_seconds:.1f}",
        f"{point.restart_cpu_seconds:.1f}",
        f"{point.peak_bytes / _MIB:.0f}",
        f"{point.steady_bytes / _MIB:.0f}",
        f"{100 * point.steady_share:.1f}",
        f"{point.report_interval_seconds:.0f}",
    )


def _storm(storm: Storm) -> tuple[str, ...]:
    return (
        "annotations" if storm.annotations else "statuses",
        f"{storm.asked_per_second}",
        f"{storm.events_per_second:.0f}",
        f"{percentile(storm.handled_seconds, 0.5):.2f}",
        f"{percentile(storm.handled_seconds, 0.99):.2f}",
        f"{storm.wait_seconds:g}",
        f"{storm.reconcile_seconds:g}",
        f"{storm.reconciles / storm.seconds:.0f}",
        f"{100 * storm.cpu_seconds / storm.seconds:.0f}",
        f"{100 * storm.machine_share:.0f}",
    )


def _plot(points: Sequence[Point], file: Path) -> None:
    sizes = [point.size.jobs for point in points]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    memory, restart, cpu = axes
    memory.plot(sizes, [point.peak_bytes / _MIB for point in points], "o-", label="at its peak")
    memory.plot(sizes, [point.steady_bytes / _MIB for point in points], "o-", label="at rest")
    memory.axhline(400, color="#7f7f7f", linestyle=":", label="target")
    memory.set_title("Memory, MiB")
    memory.legend(fontsize="small")
    restart.plot(
        sizes, [point.restart_seconds for point in points], "o-", label="until all jobs are looked at"
    )
    restart.plot(sizes, [point.restart_cpu_seconds for point in points], "o-", label="CPU")
    restart.set_title("Restart, s")
    restart.legend(fontsize="small")
    cpu.plot(sizes, [100 * point.steady_share for point in points], "o-")
    cpu.set_title("CPU at rest, % of one")
    for one in axes:
        one.set_xlabel("jobs, one in eleven of them running")
        one.set_ylim(bottom=0)
    figure.savefig(file, dpi=120)
    plt.close(figure)
