"""The result for people and for machines: tables, and flat JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forgetting.comparison import LEARNT, Curve, Measured, Spread, ends, kept, steps
from benchmarks.forgetting.experiment import STEPS
from benchmarks.forgetting.methods import METHODS, written

LEVELS = (0.5, 0.7, 0.9)


def write(measured: Measured, folder: Path) -> None:
    """Write forgetting.json and forgetting.md."""
    (folder / "forgetting.json").write_text(json.dumps(figures(measured), indent=1) + "\n")
    (folder / "forgetting.md").write_text(markdown(measured))


def figures(measured: Measured) -> dict[str, float | None]:
    """Means over the seeds, by method and rate; null where the new was not learnt so far with every seed."""
    found: dict[str, float | None] = {}
    for (method, rate), curves in measured.compared.items():
        run = f"{method}_at_{written(rate)}"
        for level in LEVELS:
            found[f"{run}_old_kept_at_new_{level}"] = _mean(kept(curves, level))
        found[f"{run}_steps_to_new_{LEARNT}"] = _mean(steps(curves, LEARNT))
        old, new = ends(curves)
        found[f"{run}_old_after"], found[f"{run}_new_after"] = _mean(old), _mean(new)
    return found


def markdown(measured: Measured) -> str:
    """The comparison, then what rates were chosen from."""
    seeds = len(next(iter(measured.compared.values())))
    tried = len(next(iter(measured.tried.values())))
    levels = [f"old kept at new {level:.0%}" for level in LEVELS]
    header = ("Method", "Rate", *levels, f"steps to {LEARNT:.0%}", "old after", "new after")
    lines = [
        "# Forgetting: measured",
        "",
        "Written by `make bench-forgetting`; what is measured, and what it means, is on the page "
        "[Forgetting](../../docs/forgetting.md).",
        "",
        "![Accuracy on old and new facts](forgetting.png)",
        "",
        "Accuracy on the old facts where accuracy on the new ones first reaches a level, steps until it is "
        f"{LEARNT:.0%}, and both after {STEPS} steps: mean over {seeds} seeds, ± standard deviation from seed to seed. "
        "A dash: not reached with every seed.",
        "",
        *_table(
            header,
            [
                (METHODS[method].label, written(rate), *_cells(curves))
                for (method, rate), curves in measured.compared.items()
            ],
        ),
        "",
        "## All learning rates",
        "",
        f"The same on the {tried} other seeds that rates are chosen on. Chosen, in bold, is the lowest rate with which "
        f"the new facts are known to {LEARNT:.0%} in the end with each of these seeds; where there is none, the one "
        "that learns most.",
        "",
        *_table(
            header,
            [
                (
                    METHODS[method].label,
                    f"**{written(rate)}**" if rate == measured.chosen[method] else written(rate),
                    *_cells(curves),
                )
                for (method, rate), curves in measured.tried.items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _cells(curves: Sequence[Curve]) -> list[str]:
    return [
        *(_percent(kept(curves, level)) for level in LEVELS),
        _spread(steps(curves, LEARNT)),
        *map(_percent, ends(curves)),
    ]


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else round(spread.mean, 4)


def _percent(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.mean:.0%} ± {100 * spread.deviation:.0f}"


def _spread(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.mean:.0f} ± {spread.deviation:.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
