"""`make bench-checkpoint`: what keeping states costs training, and what it saves when something goes wrong.

Written to benchmarks/results/checkpoint.md and checkpoint.json.
"""

import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.checkpoint import faults, stall
from benchmarks.checkpoint.faults import ANEW, EVERY_STEPS, EVICTED, KILLED, OURS, Cost
from benchmarks.checkpoint.stall import Stall
from benchmarks.trainer.workload import Corpus

RESULTS = Path(__file__).resolve().parent.parent / "results"
STALL_TARGET = 0.3
MIB = 2**20

Costs = dict[tuple[str, str], list[Cost]]


def figures(stalls: list[Stall], costs: Costs) -> dict[str, float]:
    """Medians, and ratios within repetitions."""

    def steps(system: str, fault: str) -> float:
        return median(cost.steps for cost in costs[system, fault])

    def seconds(system: str, fault: str) -> float:
        return median(cost.seconds for cost in costs[system, fault])

    anew = costs[ANEW, KILLED.name]
    return {
        "async_stall_vs_sync": median(each.held_up / each.at_once for each in stalls),
        "async_stall_and_slowdown_vs_sync": median(
            (each.held_up + each.slowed_down) / each.at_once for each in stalls
        ),
        "steps_lost_per_fault": steps(OURS, KILLED.name),
        "steps_lost_per_eviction": steps(OURS, EVICTED.name),
        "steps_lost_per_fault_from_step_0": steps(ANEW, KILLED.name),
        "seconds_lost_per_fault": seconds(OURS, KILLED.name),
        "seconds_lost_per_eviction": seconds(OURS, EVICTED.name),
        "seconds_lost_per_fault_from_step_0": seconds(ANEW, KILLED.name),
        "steps_lost_vs_from_step_0": median(
            ours.steps / theirs.steps for ours, theirs in zip(costs[OURS, KILLED.name], anew, strict=True)
        ),
        "seconds_lost_vs_from_step_0": median(
            ours.seconds / theirs.seconds for ours, theirs in zip(costs[OURS, KILLED.name], anew, strict=True)
        ),
    }


def markdown(size: int, stalls: list[Stall], costs: Costs, found: dict[str, float]) -> str:
    """The result for people."""
    ratio = found["async_stall_vs_sync"]
    lines = [
        "# Checkpoints: measured",
        "",
        "Written by `make bench-checkpoint`; what is measured, and how, is in the README one folder up.",
        "",
        f"## Saving a state of {size / MIB:,.0f} MiB",
        "",
        f"Training is held up for {ratio:.2f} of the time that saving at once takes (target: at most {STALL_TARGET}, "
        f"{'met' if ratio <= STALL_TARGET else '**missed**'}); with what it is slowed down by until the state is "
        f"complete, for {found['async_stall_and_slowdown_vs_sync']:.2f} of it.",
        "",
        "| | seconds: median (lowest to highest) |",
        "|---|---|",
        f"| at once: training waits | {_spread([each.at_once for each in stalls])} |",
        f"| in the background: training waits | {_spread([each.held_up for each in stalls])} |",
        f"| in the background: the state is complete after | {_spread([each.complete for each in stalls])} |",
        f"| in the background: steps until then take longer by | {_spread([each.slowed_down for each in stalls])} |",
        "",
        "## A fault",
        "",
        f"A state every {EVERY_STEPS} steps. *From step 0* is what Kubeflow Trainer's restart makes of a script that "
        "keeps no state.",
        "",
        "| | fault | steps done again | seconds until a new step |",
        "|---|---|---|---|",
        *(
            f"| {system} | {fault} | {_spread([cost.steps for cost in each])} | "
            f"{_spread([cost.seconds for cost in each])} |"
            for (system, fault), each in costs.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float] | list[int]) -> str:
    digits = 0 if all(isinstance(value, int) for value in values) else 2
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Measure, and write down."""
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as scratch:
        corpus = Corpus(Path(scratch) / "tokenizer.json")
        costs = faults.measure(Path(scratch), corpus)
        size, stalls = stall.measure(Path(scratch) / "stall", corpus)
    found = figures(stalls, costs)
    RESULTS.mkdir(exist_ok=True)
    rounded = {key: round(value, 4) for key, value in found.items()}
    (RESULTS / "checkpoint.json").write_text(json.dumps(rounded, indent=1) + "\n")
    text = markdown(size, stalls, costs, found)
    (RESULTS / "checkpoint.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
