"""The result for people and for machines: tables, a plot, and flat JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.markdown import table
from benchmarks.operator.figures import Figure, figures, percentile
from benchmarks.operator.samples import Turn
from benchmarks.operator.systems import FLOOR, KUBEFLOW, LABELS, OURS

_COLORS = {FLOOR: "#7f7f7f", OURS: "#1f77b4", KUBEFLOW: "#ff7f0e"}
_LIMITS = {
    "default": "Clients as they are shipped",
    "equalised": "Clients with the same, high limits",
}
_SHIPPED = {
    "default": "The controller manager asks 20 times a second (30 at once), Kubeflow Trainer the same, JobSet 500 "
    "times; the operator has no limit of its own, and is held by the API server's priorities.",
    "equalised": "The controller manager and JobSet ask 1,000 times a second. Kubeflow Trainer 2.0 has no option for "
    "it, so it stays at 20 (30 at once).",
}
_MIB = 2**20


def write(turns: Sequence[Turn], failures: Sequence[str], machine: str, folder: Path) -> str:
    """Write operator.json, .md and .png; returns the text."""
    found = figures(turns)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {figure.key: round(figure.value, 4) for figure in found}
    (folder / "operator.json").write_text(json.dumps(flat, indent=1) + "\n")
    text = markdown(turns, failures, machine, found)
    (folder / "operator.md").write_text(text)
    _plot(turns, folder / "operator.png")
    return text


def markdown(turns: Sequence[Turn], failures: Sequence[str], machine: str, found: Sequence[Figure]) -> str:
    """Targets first, then what they are made of."""
    lines = [
        "# The operator beside its peers: measured",
        "",
        f"{machine}.",
        "",
        "Written by `make bench-operator`; what is measured, and how, is in the README one folder up.",
        "",
        "## Targets",
        "",
        *table(
            ("Ratio", "Measured", "Target", ""),
            [
                (figure.about, f"{figure.value:.2f}", figure.bound, "met" if figure.met else "**missed**")
                for figure in found
                if figure.target is not None
            ],
        ),
    ]
    if failures:
        lines += ["", "## Not measured", "", *(f"- {failure}" for failure in failures)]
    for limits, title in _LIMITS.items():
        these = [turn for turn in turns if turn.limits == limits]
        if these:
            lines += ["", f"## {title}", "", _SHIPPED[limits], "", *_tables(these)]
    others = [figure for figure in found if figure.target is None]
    if others:
        rows = [(figure.about, f"`{figure.key}`", f"{figure.value:.2f}") for figure in others]
        lines += ["", "## Other ratios", "", *table(("Ratio", "Key", "Measured"), rows)]
    return "\n".join(lines) + "\n"


def _tables(turns: Sequence[Turn]) -> list[str]:
    return [
        "Seconds are p50 / p99 over the jobs of a turn, the first repetition; jobs/s the median of all.",
        "",
        *table(
            ("Work", "System", "Jobs/s", "First pod", "Last pod", "End to terminal", "Suspend to gone"),
            [
                (
                    turn.work.label,
                    LABELS[turn.system],
                    f"{median(other.jobs_per_second for other in _alike(turn, turns)):.2f}",
                    _times(turn.first_pod),
                    _times(turn.last_pod),
                    _times(turn.ended),
                    _times(turn.suspended),
                )
                for turn in turns
                if turn.repetition == 0
            ],
        ),
        "",
        "What it costs, per job; writes from the making of jobs to their end, the rest until their pods are there.",
        "",
        *table(
            (
                "Work",
                "System",
                "Writes of its controllers",
                "until pods are there",
                "Writes of the controller manager",
                "Reads by all",
                "CPU ms",
                "Peak MiB",
                "Growth KiB",
            ),
            [
                (
                    turn.work.label,
                    LABELS[turn.system],
                    f"{turn.writes.total() / turn.work.jobs:.1f}",
                    f"{turn.launch_writes.total() / turn.work.jobs:.1f}",
                    f"{turn.manager_writes.total() / turn.work.jobs:.1f}",
                    f"{turn.reads / turn.work.jobs:.1f}",
                    f"{1000 * turn.cpu_seconds / turn.work.jobs:.1f}",
                    f"{turn.peak_bytes / _MIB:.0f}",
                    f"{turn.growth_bytes / turn.work.jobs / 1024:.0f}",
                )
                for turn in turns
                if turn.repetition == 0
            ],
        ),
        "",
        "Which writes, per job that comes to its end:",
        "",
        *(
            f"- {LABELS[turn.system]}: {_kinds(turn)}"
            for turn in turns
            if turn.repetition == 0
            and turn.writes
            and (turn.work.size, turn.work.then) == ("100x2", "finish")
        ),
    ]


def _kinds(turn: Turn) -> str:
    return ", ".join(f"{count / turn.work.jobs:.1f} {kind}" for kind, count in turn.writes.most_common())


def _alike(turn: Turn, turns: Sequence[Turn]) -> list[Turn]:
    return [other for other in turns if (other.work, other.system) == (turn.work, turn.system)]


def _times(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.2f} / {percentile(values, 0.99):.2f}" if values else ""


def _plot(turns: Sequence[Turn], file: Path) -> None:
    """How many jobs have all their pods, over time, for the large bursts."""
    shown = [
        (limits, size)
        for limits in _LIMITS
        for size in ("100x2", "500x2")
        if any(turn.limits == limits and turn.work.size == size for turn in turns)
    ]
    if not shown:
        return
    rows = -(-len(shown) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(12, 4.2 * rows), layout="constrained", squeeze=False)
    for place, one in enumerate(axes.flat):
        if place < len(shown):
            _plot_one(turns, *shown[place], one)
        else:
            one.set_visible(False)
    figure.suptitle("Jobs with all their pods: the same pods on the same control plane")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _plot_one(turns: Sequence[Turn], limits: str, size: str, axes: Axes) -> None:
    labelled = set()
    for turn in turns:
        if (turn.limits, turn.work.size, turn.work.pace) != (limits, size, "burst"):
            continue
        counts = range(1, len(turn.complete_at) + 1)
        label = None if turn.system in labelled else LABELS[turn.system]
        labelled.add(turn.system)
        axes.step(turn.complete_at, counts, where="post", color=_COLORS[turn.system], label=label)
    axes.set_title(f"{size.replace('x', ' jobs of ')} nodes: {_LIMITS[limits].lower()}")
    axes.set_xlabel("seconds since the first was asked for")
    axes.set_ylabel("jobs with all pods")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small", loc="lower right")
