"""The result of a soak, written down."""

import json
from collections import Counter
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.markdown import table
from benchmarks.soak.figures import Course, figures
from benchmarks.soak.measures import ALLOWANCES
from benchmarks.soak.plan import Ending, Fault
from benchmarks.soak.story import STORIES
from deploy import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def publish(course: Course) -> None:
    """Write soak.json, soak.md and soak.png."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "soak.json").write_text(json.dumps(figures(course), indent=1) + "\n")
    (RESULTS / "soak.md").write_text(markdown(course))
    if course.measured:
        _plot(course, RESULTS / "soak.png")


def markdown(course: Course) -> str:
    """The result for people."""
    found = figures(course)
    ends = Counter(ended.plan.ending for ended in course.ends)
    lost = Counter(ended.plan.ending for ended in course.lost)
    struck = Counter(fault for _, fault, _ in course.faults)
    lines = [
        "# Soak: measured",
        "",
        "Written by `make soak`; what is measured, and how, is in the README one folder up.",
        "",
        f"{found['minutes']:g} minutes, seed {course.seed}: {found['jobs']:g} jobs ended, "
        f"**{found['jobs_lost']:g} lost**, {found['faults']:g} faults, {found['restarts']:g} restarts, "
        f"**{found['leaks']:g} leaks** among {found['quantities_judged']:g} quantities judged, "
        f"**{found['left_at_rest']:g} left behind**.",
        "",
        *table(
            ["meant to be", "jobs", "lost"],
            [[str(each), str(ends[each]), str(lost[each])] for each in Ending],
        ),
        "",
        *(
            f"- {ended.plan.name}: {problem} (`{_story(ended.plan.name)}`)"
            for ended in course.lost
            for problem in ended.problems
        ),
        *([""] if course.lost else []),
        *table(["fault", "times"], [[str(each), str(struck[each])] for each in Fault]),
        "",
        *table(
            ["quantity", "highest", "last", "at rest", "growth over the second half", "allowed", ""],
            _quantities(course, found),
        ),
    ]
    return "\n".join(lines) + "\n"


def _quantities(course: Course, found: dict[str, float]) -> list[list[str]]:
    trends = course.trends()
    rows = []
    for quantity, allowance in ALLOWANCES.items():
        if f"{quantity}_last" not in found:
            continue
        known = trends.get(quantity)
        judged = (
            ["not judged: too short", ""] if known is None else [f"{known.growth:+.1f}", f"{allowance:g}"]
        )
        leaks = "**leaks**" if known is not None and known.leaks else ""
        left = "**left behind**" if quantity in course.left() else ""
        at_rest = f"{course.after[quantity]:.4g}" if quantity in course.after else ""
        highest, last = (f"{found[f'{quantity}_{which}']:g}" for which in ("highest", "last"))
        rows.append([quantity, highest, last, at_rest, *judged, f"{leaks}{left}"])
    return rows


def _story(job: str) -> Path:
    return (STORIES / job).relative_to(ROOT)


def _plot(course: Course, file: Path) -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(4, 4, figsize=(14, 10), layout="constrained", sharex=True)
    for each, quantity in zip(axes.flat, [*ALLOWANCES, "events"], strict=False):
        points = [(one["second"] / 60, one[quantity]) for one in course.measured if quantity in one]
        each.plot([minute for minute, _ in points], [value for _, value in points])
        each.set_title(quantity, fontsize=9)
        each.set_ylim(bottom=0)
    for each in axes.flat[len(ALLOWANCES) + 1 :]:
        each.axis("off")
    figure.supxlabel("minutes")
    figure.savefig(file, dpi=110)
    plt.close(figure)
