"""How good and how fast the planner of micro-batches is (`make bench-planner`).

Beside it stand the lower bound, first-fit decreasing with its micro-batches dealt out in turn, and the packer of
mini_trainer. Written to benchmarks/results/planner.md and planner.json.
"""

import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mini_trainer.batch_packer import batch_lengths_to_minibatches_lpt

from benchmarks.planner.lengths import DISTRIBUTIONS, Lengths, chat
from finetune_trainer.batches import Schedule
from finetune_trainer.packing import costs_of, count, first_fit, pack

RESULTS = Path(__file__).resolve().parent.parent / "results"
# Samples of each distribution that are packed, a step at a time.
SAMPLES = 12_800
COUNTED = 10_000_000
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """How a step is cut."""

    batch_size: int
    world_size: int
    budget: int
    longest: int


SETTINGS = (
    Setting(batch_size=128, world_size=1, budget=4096, longest=4096),
    Setting(batch_size=128, world_size=8, budget=4096, longest=4096),
    Setting(batch_size=128, world_size=8, budget=16384, longest=4096),
    Setting(batch_size=1024, world_size=64, budget=8192, longest=8192),
    Setting(batch_size=4096, world_size=16, budget=32768, longest=32768),
)

# Lengths of the samples in each micro-batch of each process.
Shares = list[list[Lengths]]
Packer = Callable[[Lengths, Setting], Shares]


def ours(lengths: Lengths, setting: Setting) -> Shares:
    """The planner."""
    shares = pack(np.arange(len(lengths)), lengths, budget=setting.budget, world_size=setting.world_size)
    return [[lengths[members] for members in share] for share in shares]


def dealt(lengths: Lengths, setting: Setting) -> Shares:
    """First-fit decreasing, its micro-batches dealt out in turn."""
    ordered = np.sort(lengths)[::-1]
    bins = first_fit(ordered[:, None], setting.budget)[:, 0]
    starts = range(0, int(bins.max()) + 1, setting.world_size)
    return [[ordered[bins == start + rank] for start in starts] for rank in range(setting.world_size)]


def mini_trainer(lengths: Lengths, setting: Setting) -> Shares:
    """The packer of mini_trainer: longest first onto the least loaded process, a micro-batch after the other."""

    def share(rank: int) -> list[Lengths]:
        found = batch_lengths_to_minibatches_lpt(lengths.tolist(), setting.budget, setting.world_size, rank)
        return [lengths[[sample for sample in members if sample >= 0]] for members in found]

    return [share(rank) for rank in range(setting.world_size)]


PACKERS: dict[str, Packer] = {"ours": ours, "first fit": dealt, "mini_trainer": mini_trainer}


def lower_bound(lengths: Lengths, setting: Setting) -> int:
    """Micro-batches that every process needs at least: Martello and Toth's second bound, over all processes."""
    budget, least = setting.budget, 0
    half = lengths <= budget // 2
    # Whatever is longer than the budget less `some` is alone; of the others above half of the budget, each is in a
    # micro-batch of its own, and what is left there is all that `some` tokens and more can use without new ones.
    for some in np.unique([0, *lengths[half]]):
        alone = lengths > budget - some
        large, small = ~alone & ~half, half & (lengths >= some)
        room = int(large.sum()) * budget - int(lengths[large].sum())
        more = -(-(int(lengths[small].sum()) - room) // budget)
        least = max(least, int((alone | large).sum()) + max(0, more))
    return -(-least // setting.world_size)


@dataclass(frozen=True)
class Quality:
    """Ratios over some steps; 1 is perfect."""

    fewness: float
    """Lower bound, to the micro-batches used."""
    evenness: float
    """Mean cost over processes, to that of the slowest: they wait for each other after every micro-batch."""
    tokens: float
    """Mean tokens over processes, to the most."""


def quality(packer: Packer, steps: list[Lengths], setting: Setting) -> Quality:
    """How well steps are packed."""
    used = least = 0
    mean_cost = slowest = mean_tokens = most_tokens = 0.0
    for lengths in steps:
        shares = packer(lengths, setting)
        costs = np.array([[costs_of(members).sum() for members in share] for share in shares])
        tokens = [sum(int(members.sum()) for members in share) for share in shares]
        used, least = used + costs.shape[1], least + lower_bound(lengths, setting)
        mean_cost, slowest = mean_cost + costs.sum() / len(shares), slowest + costs.max(axis=0).sum()
        mean_tokens, most_tokens = mean_tokens + sum(tokens) / len(shares), most_tokens + max(tokens)
    return Quality(least / used, mean_cost / slowest, mean_tokens / most_tokens)


def compare() -> tuple[list[str], dict[str, float]]:
    """A table, and the worst that each packer does."""
    lines = [
        "| lengths | samples × processes, budget | " + " | ".join(PACKERS) + " |",
        "|---|---|" + "---|" * len(PACKERS),
    ]
    found: dict[str, list[Quality]] = {name: [] for name in PACKERS}
    for name, lengths_of in DISTRIBUTIONS.items():
        for setting in SETTINGS:
            draw, number = np.random.default_rng(0), SAMPLES // setting.batch_size
            steps = [lengths_of(draw, setting.batch_size, setting.longest) for _ in range(number)]
            cells = []
            for packer, packed in PACKERS.items():
                result = quality(packed, steps, setting)
                found[packer].append(result)
                cells.append(f"{result.fewness:.3f} · {result.evenness:.3f} · {result.tokens:.3f}")
            what = f"{setting.batch_size} × {setting.world_size}, {setting.budget}"
            lines.append(f"| {name} | {what} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    figures = {}
    for packer, results in found.items():
        key = packer.replace(" ", "_")
        figures[f"{key}_lower_bound_vs_micro_batches_mean"] = float(np.mean([r.fewness for r in results]))
        figures[f"{key}_lower_bound_vs_micro_batches_least"] = min(r.fewness for r in results)
        figures[f"{key}_mean_vs_slowest_process_mean"] = float(np.mean([r.evenness for r in results]))
        figures[f"{key}_mean_vs_most_tokens_mean"] = float(np.mean([r.tokens for r in results]))
    return lines, figures


def speed() -> dict[str, float]:
    """Milliseconds of processor time to plan a step of so many samples; seconds to count an epoch of ten millions."""
    figures = {}
    draw = np.random.default_rng(0)
    for batch_size in (128, 1024, 8192, 65536):
        lengths, repeats = chat(draw, batch_size, 4096), max(1, 4096 // batch_size)
        began = time.process_time()
        for _ in range(repeats):
            pack(np.arange(batch_size), lengths, budget=16384, world_size=8)
        figures[f"plan_step_of_{batch_size}_ms"] = 1000 * (time.process_time() - began) / repeats
    lengths = chat(draw, COUNTED, 4096)
    for batch_size in (128, 1024, 65536):
        # Another seed each time: the order of the samples is counted in.
        schedule = Schedule(COUNTED, batch_size, seed=batch_size)
        began = time.process_time()
        count(lengths, schedule, 16384, 8, lambda: None)
        figures[f"count_10m_samples_in_batches_of_{batch_size}_s"] = time.process_time() - began
    tracemalloc.start()
    count(lengths, Schedule(COUNTED, 128, seed=0), 16384, 8, lambda: None)
    figures["count_10m_samples_mib"] = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    return figures


def main() -> None:
    """Measure, print, and write down."""
    lines, figures = compare()
    figures |= speed()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "planner.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = [
        "# The planner of micro-batches",
        "",
        "Each cell: lower bound to micro-batches used · mean to slowest process, when they meet after every "
        "micro-batch · mean to most tokens of a process. 1 is perfect, and not always possible: a single sample may "
        "cost more than the mean of all processes.",
        "",
        *lines,
        "",
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {value:.3g} |" for name, value in figures.items()),
        "",
    ]
    (RESULTS / "planner.md").write_text("\n".join(text))
    print("\n".join(text[-len(figures) - 3 :]))


if __name__ == "__main__":
    main()
