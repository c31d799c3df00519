"""The result for people and for machines: tables, and flat JSON."""

import json
from pathlib import Path

from benchmarks.lora.comparison import LABELS, OURS, SFT, Apart, Measured, figures
from benchmarks.lora.exchange import PROCESSES, SAMPLE, SAMPLES
from benchmarks.markdown import table

_MIB = 2**20


def write(measured: Measured, folder: Path, name: str) -> None:
    """Write `name`.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {key: round(value, 4) for key, value in figures(measured).items()}
    (folder / f"{name}.json").write_text(json.dumps(flat, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(measured))


def markdown(measured: Measured) -> str:
    """Headlines, then what they are made of."""
    found = figures(measured)
    lines = [
        "# LoRA: measured",
        "",
        f"{measured.machine}. "
        + ", ".join(f"{name} {version}" for name, version in measured.versions.items()),
        "",
        "Written by `make bench-lora`; what is measured, and how, is in the README one folder up. Ratios of speed are "
        "medians of ratios within repetitions.",
        "",
        f"finetune-trainer trains adapters {found['tokens_per_s_vs_trl']:.2f} times as fast as TRL and peft, and its "
        f"peak memory is {found['peak_memory_vs_trl']:.2f} times theirs.",
        "",
        "## Training",
        "",
        "Tokens per second, padding not counted: median, lowest and highest of the repetitions. *Faster* and *memory* "
        "are ours over theirs. The last column is how far the loss of any step is from ours, relative to it.",
        "",
        *table(
            (
                "Frozen model",
                "Padding",
                "System",
                "Tokens/s",
                "Faster",
                "Peak memory, MiB",
                "Memory",
                "Difference of loss",
            ),
            [
                (
                    case.about,
                    f"{compared.speed.padding:.1%}",
                    LABELS[system],
                    str(speed),
                    "" if system == OURS else f"{found[f'tokens_per_s_vs_{system}{case.key}']:.2f}",
                    f"{compared.memory[system] / _MIB:,.0f}",
                    "" if system == OURS else f"{found[f'peak_memory_vs_{system}{case.key}']:.2f}",
                    # It trains something else.
                    "" if system == SFT else f"{compared.speed.loss_difference[system]:.1e}",
                )
                for case, compared in measured.cases
                for system, speed in compared.speed.tokens_per_second.items()
            ],
        ),
        *(_apart(measured.apart) if measured.apart else []),
    ]
    return "\n".join(lines) + "\n"


def _apart(apart: Apart) -> list[str]:
    adapters, weights, exchange = apart.sizes[OURS], apart.sizes[SFT], apart.exchange
    return [
        "",
        "## What is written",
        "",
        *table(
            ("MiB, tokenizer not counted", "lora", "sft", "Share"),
            [
                (about, f"{lora / _MIB:,.1f}", f"{sft / _MIB:,.1f}", f"{lora / sft:.1%}")
                for about, lora, sft in (
                    ("the result", adapters.result, weights.result),
                    ("a state that training goes on from", adapters.state, weights.state),
                )
            ],
        ),
        "",
        f"## The exchange of gradients between {PROCESSES} processes",
        "",
        f"{1000 * exchange.exchange:.1f} ms after {1000 * exchange.passes:.0f} ms of forward and backward pass over "
        f"{SAMPLES * SAMPLE:,} tokens in each: {exchange.share:.1%} of both. It comes once per step, however many "
        "tokens that has.",
    ]
