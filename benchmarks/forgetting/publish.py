"""The result for people and for machines: tables, and flat JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forgetting.comparison import LEARNT, Curve, Measured, Spread, ends, kept, kept_beside, steps
from benchmarks.forgetting.experiment import STEPS
from benchmarks.forgetting.methods import METHODS, written
from benchmarks.markdown import table

LEVELS = (0.5, 0.7, 0.9)


def write(measured: Measured, folder: Path) -> None:
    """Write forgetting.json and forgetting.md."""
    (folder / "forgetting.json").write_text(json.dumps(figures(measured), indent=1) + "\n")
    (folder / "forgetting.md").write_text(markdown(measured))


def figures(measured: Measured) -> dict[str, float | None]:
    """Means over the seeds, by method and rate; null where the new was not learnt so far with every seed."""
    found: dict[str, float | None] = {
        f"{method}_chosen_learning_rate": rate for method, rate in measured.chosen.items()
    }
    for (method, rate), curves in measured.curves.items():
        run = f"{method}_at_{written(rate)}"
        for level in LEVELS:
            found[f"{run}_old_kept_at_new_{level}"] = _mean(kept(curves, level))
        found[f"{run}_steps_to_new_{LEARNT}"] = _mean(steps(curves, LEARNT))
        old, new = ends(curves)
        found[f"{run}_old_after"], found[f"{run}_new_after"] = _mean(old), _mean(new)
    return found


def markdown(measured: Measured) -> str:
    """One table of everything."""
    seeds = len(next(iter(measured.curves.values())))
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
        f"In bold: the lowest rate with which the new facts are known to {LEARNT:.0%} in the end with each of two "
        "other seeds; where there is none, the one that learns most.",
        "",
        *table(
            (
                "Method",
                "Rate",
                *(f"old kept at new {level:.0%}" for level in LEVELS),
                f"steps to {LEARNT:.0%}",
                "old after",
                "new after",
            ),
            [
                (
                    METHODS[method].label,
                    f"**{written(rate)}**" if rate == measured.chosen[method] else written(rate),
                    *_cells(curves),
                )
                for (method, rate), curves in measured.curves.items()
            ],
        ),
    ]
    return "\n".join([*lines, *_beside_sft(measured)]) + "\n"


def _beside_sft(measured: Measured) -> list[str]:
    """Seeds differ more than methods do; so these are compared within each seed."""
    rows = []
    for (method, rate), curves in measured.curves.items():
        if method == "sft":
            continue
        others = [measured.curves["sft", sfts] for sfts in (rate, measured.chosen["sft"])]
        rows.append(
            (METHODS[method].label, written(rate), *(_points(kept_beside(curves, sft)) for sft in others))
        )
    return [
        "",
        "## Beside SFT",
        "",
        f"What is kept at {LEARNT:.0%} of the new facts, less what SFT keeps there with the same seed, in percentage "
        "points; and with how many seeds it is more.",
        "",
        *table(("Method", "Rate", "than SFT at the same rate", "than SFT at the rate in bold"), rows),
    ]


def _points(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    more = sum(value > 0 for value in spread.values)
    return f"{100 * spread.mean:+.0f} ± {100 * spread.deviation:.0f}, {more} of {len(spread.values)}"


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
