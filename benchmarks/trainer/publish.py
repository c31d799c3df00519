"""The result for people and for machines: a table, plots, and flat JSON."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.markdown import table
from benchmarks.trainer.results import LABELS, Measured, Others, Ratio, Spread, ratios

_COLORS = {"ours": "#1f77b4", "trl": "#ff7f0e", "trl-padding-free": "#ffbb78", "padded-loop": "#7f7f7f"}
_KINDS = {"floor": "the floor", "ours": LABELS["ours"], "full": "full logits"}
_MIB = 2**20


def write(measured: Measured, folder: Path, name: str) -> None:
    """Write `name`.json, .md, .svg and .png."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {ratio.key: round(ratio.value, 4) for ratio in ratios(measured)}
    (folder / f"{name}.json").write_text(json.dumps(flat, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(measured))
    _plot(measured, folder / name)


def markdown(measured: Measured) -> str:
    """Ratios with their targets, then what they are made of."""
    lines = [
        "# Trainer: measured",
        "",
        f"{measured.machine}. "
        + ", ".join(f"{name} {version}" for name, version in measured.versions.items()),
        "",
        "Written by `make bench-trainer`; what is measured, and how, is in the README one folder up.",
        "",
        *table(
            ("Ratio", "Measured", "Target", ""),
            [(ratio.about, f"{ratio.value:.2f}", ratio.bound, _verdict(ratio)) for ratio in ratios(measured)],
        ),
        "",
        "## Training",
        "",
        "Tokens per second, padding not counted: median, lowest and highest of the repetitions. The last column is how "
        "far the loss of any step is from ours, relative to it.",
        "",
        *table(
            ("Padding", "System", "Tokens/s", "Difference of loss"),
            [
                (f"{speed.padding:.1%}", LABELS[system], str(spread), f"{speed.loss_difference[system]:.1e}")
                for speed in measured.speeds.values()
                for system, spread in speed.tokens_per_second.items()
            ],
        ),
    ]
    if others := measured.others:
        lines += [
            "",
            "## Loss, preparation, start-up",
            "",
            *table(
                ("", "System", "Measured"),
                [
                    ("peak memory of the loss", _KINDS[kind], f"{size / _MIB:,.0f} MiB")
                    for kind, size in others.loss_memory.items()
                ]
                + _rows("rows prepared per second", others.rows_per_second)
                + _rows("seconds to the first step", others.startup_seconds),
            ),
        ]
    return "\n".join(lines) + "\n"


def _verdict(ratio: Ratio) -> str:
    if ratio.target is None:
        return ""
    return "met" if ratio.met else "**missed**"


def _rows(about: str, spreads: dict[str, Spread]) -> list[tuple[str, str, str]]:
    return [(about, LABELS[system], str(spread)) for system, spread in spreads.items()]


def _plot(measured: Measured, file: Path) -> None:
    rows = 2 if measured.others else 1
    figure, axes = plt.subplots(rows, 2, figsize=(12, 4.6 * rows), layout="constrained", squeeze=False)
    _plot_speed(measured, axes[0][0])
    _plot_gain(measured, axes[0][1])
    if measured.others:
        _plot_memory(measured.others, axes[1][0])
        _plot_rest(measured.others, axes[1][1])
    figure.suptitle("finetune-trainer and its peers: the same work on the same machine")
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(file.with_suffix(".png"), dpi=120)
    plt.close(figure)


def _plot_speed(measured: Measured, axes: Axes) -> None:
    speeds = list(measured.speeds.values())
    systems = list(speeds[0].tokens_per_second)
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        spreads = [speed.tokens_per_second[system] for speed in speeds]
        medians = [spread.median for spread in spreads]
        errors = [
            [spread.median - min(spread.values) for spread in spreads],
            [max(spread.values) - spread.median for spread in spreads],
        ]
        axes.bar(
            [group + (place - (len(systems) - 1) / 2) * width for group in range(len(speeds))],
            medians,
            width * 0.95,
            yerr=errors,
            capsize=3,
            label=LABELS[system],
            color=_COLORS[system],
        )
    axes.set_xticks(range(len(speeds)), [f"{speed.padding:.0%} padding in batches of 8" for speed in speeds])
    axes.set_ylabel("real tokens per second")
    axes.set_title("Training speed (bars: median, whiskers: all repetitions)")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)
    axes.legend(fontsize="small", ncols=2)


def _plot_gain(measured: Measured, axes: Axes) -> None:
    found = [ratio for ratio in ratios(measured) if ratio.key.startswith("tokens_per_s")]
    names = [ratio.about.removeprefix("tokens/s against ").replace(" at ", "\n") for ratio in found]
    axes.barh(names, [ratio.value for ratio in found], color="#1f77b4")
    for place, ratio in enumerate(found):
        axes.text(ratio.value, place, f" {ratio.value:.2f}", va="center")
        if ratio.target is not None:
            axes.plot([ratio.target] * 2, [place - 0.45, place + 0.45], color="#d62728", lw=2)
    axes.plot([], [], color="#d62728", lw=2, label="target")
    axes.axvline(1, color="black", lw=0.8, ls=":", label="as fast")
    axes.invert_yaxis()
    axes.set_xlabel("times their tokens per second")
    axes.set_title("How much faster")
    axes.tick_params(axis="y", labelsize="small")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.1)
    axes.legend(fontsize="small", loc="lower right")


def _plot_memory(others: Others, axes: Axes) -> None:
    sizes = others.loss_memory
    bars = axes.bar(
        [_KINDS[kind] for kind in sizes],
        [size / _MIB for size in sizes.values()],
        color=["#2ca02c", "#1f77b4", "#7f7f7f"],
    )
    axes.bar_label(bars, fmt="{:,.0f}", label_type="center", color="white")
    axes.axhline(1.05 * sizes["floor"] / _MIB, color="#d62728", lw=1.5, label="target: floor and 5 %")
    axes.set_ylabel("peak memory, MiB")
    axes.set_title("Loss and its gradients: 4,096 tokens, vocabulary of 32,000")
    axes.legend(fontsize="small")


def _plot_rest(others: Others, axes: Axes) -> None:
    """Two quantities of different units, each relative to TRL."""
    pairs = {
        "rows prepared per second\n(more is better)": others.rows_per_second,
        "seconds to the first step\n(less is better)": others.startup_seconds,
    }
    for place, system in enumerate(("ours", "trl")):
        positions = [group + (place - 0.5) * 0.4 for group in range(len(pairs))]
        heights = [spreads[system].median / spreads["trl"].median for spreads in pairs.values()]
        bars = axes.bar(positions, heights, 0.38, label=LABELS[system], color=_COLORS[system])
        axes.bar_label(bars, labels=[f"{spreads[system].median:,.1f}" for spreads in pairs.values()])
    axes.set_xticks(range(len(pairs)), list(pairs))
    axes.set_ylabel("relative to TRL")
    axes.set_title("Preparation and start-up")
    axes.legend(fontsize="small")
