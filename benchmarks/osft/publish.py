"""The result for people and for machines: tables, and flat JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.markdown import table
from benchmarks.osft import layers
from benchmarks.osft.decomposing import Decomposing
from benchmarks.osft.layers import DENSE, OSF, OURS, Costs
from benchmarks.osft.steps import Steps
from benchmarks.osft.systems import DECOMPOSED, SHAPE, TOKENS

# 128 samples, which the guide advises for 1,000 to 10,000 of them, of 256 tokens.
TYPICAL = 32_768
_TOKENS = (2048, 8192, TYPICAL, 131_072)
_TARGET = 1.3
_RATIO = 0.5
_MIB = 2**20


@dataclass(frozen=True)
class Found:
    """A whole benchmark."""

    threads: int
    layers: dict[tuple[tuple[int, int], float], Costs]
    """By shape and ratio."""
    leaks: dict[str, float]
    """By form of the layer."""
    steps: dict[tuple[str, float], Steps]
    """By system and ratio."""
    memory: dict[str, int]
    """By system, bytes at the peak."""
    decomposing: Sequence[Decomposing]

    def layer(self, form: str, ratio: float, tokens: int | None) -> list[float]:
        """How many times as long as a dense layer, for each shape; without `tokens` the passes alone."""
        return [
            layers.ratio_to_dense(costs, form, tokens)
            for (_, of), costs in self.layers.items()
            if of == ratio
        ]


def figures(found: Found) -> dict[str, float]:
    """Ratios. Of layers, that of the shape for which it is highest."""
    ours, sft = found.steps["ours", _RATIO], found.steps["sft", 1.0]
    theirs = found.steps["mini_trainer", _RATIO]
    one, two = found.decomposing
    return {
        "layer_cost_vs_dense": max(found.layer(OURS, _RATIO, TYPICAL)),
        "layer_cost_vs_dense_mini_trainer": max(found.layer(layers.FACTORED, _RATIO, TYPICAL)),
        "layer_cost_vs_dense_frozen_dense": max(found.layer(layers.SPLIT, _RATIO, TYPICAL)),
        "layer_cost_vs_dense_peft_osf": max(found.layer(OSF, _RATIO, TYPICAL)),
        "step_time_vs_sft": ours.over(sft),
        "step_time_vs_mini_trainer": ours.over(theirs),
        "step_time_vs_sft_at_0.25": found.steps["ours", 0.25].over(sft),
        "step_time_vs_mini_trainer_at_0.25": found.steps["ours", 0.25].over(
            found.steps["mini_trainer", 0.25]
        ),
        "step_time_vs_peft_osf": ours.over(found.steps["peft OSF", _RATIO]),
        "peak_memory_vs_mini_trainer": found.memory["ours"] / found.memory["mini_trainer"],
        "peak_memory_vs_sft": found.memory["ours"] / found.memory["sft"],
        "decomposing_2_processes_vs_1": two.anew / one.anew,
        "decomposing_from_cache_vs_anew": one.again / one.anew,
    }


def markdown(found: Found) -> str:
    """Headlines, then what they are made of."""
    ratios = figures(found)
    cost = ratios["layer_cost_vs_dense"]
    lines = [
        "# OSFT: measured",
        "",
        f"Written by `make bench-osft`, on {found.threads} threads; what is measured, and how, is in the README one "
        "folder up. Ratios are medians of ratios within repetitions.",
        "",
        f"A layer costs at most {cost:.2f} times what a dense layer costs, at ratio {_RATIO} and {TYPICAL:,} tokens "
        f"per step (target: at most {_TARGET}, {_verdict(cost <= _TARGET)}); in mini_trainer's form up to "
        f"{ratios['layer_cost_vs_dense_mini_trainer']:.2f} times. A whole step, of {TOKENS:,} tokens, takes "
        f"{ratios['step_time_vs_sft']:.2f} of sft's time, and {ratios['step_time_vs_mini_trainer']:.2f} of "
        f"mini_trainer's (target: less than 1, {_verdict(ratios['step_time_vs_mini_trainer'] < 1)}).",
        "",
        *_layers(found),
        *_steps(found),
        *_memory(found),
        *_decomposing(found.decomposing),
        *_osf(found),
    ]
    return "\n".join(lines) + "\n"


def _layers(found: Found) -> list[str]:
    shapes = dict.fromkeys(shape for shape, _ in found.layers)
    return [
        "## A layer",
        "",
        "How many times as long as a dense layer with its AdamW. *Passes* is forward and backward alone. Ours computes "
        "as a dense layer; what it does beside comes once per step, however many tokens that has.",
        "",
        *table(
            ("Layer", "Ratio", "Form", "Passes", *(f"{tokens:,} tokens per step" for tokens in _TOKENS)),
            [
                (
                    f"{outputs} x {inputs}",
                    str(ratio),
                    form,
                    *(f"{layers.ratio_to_dense(costs, form, tokens):.2f}" for tokens in (None, *_TOKENS)),
                )
                for outputs, inputs in shapes
                for ratio in layers.RATIOS
                for costs in [found.layers[(outputs, inputs), ratio]]
                for form in costs
                if form != DENSE
            ],
        ),
        "",
    ]


def _steps(found: Found) -> list[str]:
    sft = found.steps["sft", 1.0]
    return [
        "## A whole step",
        "",
        f"{SHAPE.parameters / 1e6:.1f} million weights, {TOKENS:,} tokens. The last column is how far the loss of any "
        "step is from ours at the same ratio, relative to it.",
        "",
        *table(
            ("System", "Ratio", "Seconds", "Times sft's", "Difference of loss"),
            [
                (
                    system,
                    "" if system == "sft" else str(ratio),
                    _spread(each.seconds),
                    f"{each.over(sft):.2f}",
                    "" if system == "sft" else f"{each.difference(found.steps['ours', ratio]):.1e}",
                )
                for (system, ratio), each in found.steps.items()
            ],
        ),
        "",
    ]


def _memory(found: Found) -> list[str]:
    sft = found.memory["sft"]
    return [
        "## Memory",
        "",
        f"The most that a process holds over the start and two steps, at ratio {_RATIO}; Python and its libraries are "
        "not counted.",
        "",
        *table(
            ("System", "MiB", "Times sft's"),
            [(system, f"{size / _MIB:,.0f}", f"{size / sft:.2f}") for system, size in found.memory.items()],
        ),
        "",
    ]


def _decomposing(found: Sequence[Decomposing]) -> list[str]:
    return [
        f"## Decomposing {DECOMPOSED.layers} such blocks",
        "",
        *table(
            ("Processes, of one thread each", "Seconds", "Seconds when it was done before"),
            [(str(each.processes), f"{each.anew:.1f}", f"{each.again:.1f}") for each in found],
        ),
        "",
    ]


def _osf(found: Found) -> list[str]:
    return [
        "## Why not peft's OSF",
        "",
        f"How far what is trained reaches into what is frozen after {layers.LEAK_AFTER} steps, 1024 x 1024 at ratio "
        f"{_RATIO}: the largest |U_highᵀ U_low| and |V_low V_highᵀ|.",
        "",
        *table(("Form", "Leak"), [(form, f"{leak:.1e}") for form, leak in found.leaks.items()]),
        "",
        "peft's OSF projects gradients and leaves the values alone, and AdamW leads them out of the subspace. It "
        "keeps the dense layer and adds the difference of two products of factors to it, the trained one and the one "
        "at the start, which is what makes it dear. It freezes embeddings, norms and head, where osft trains all that "
        "is no target. An `effective_rank` of 1.0 leaves nothing to train, where osft trains one direction at least.",
    ]


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
