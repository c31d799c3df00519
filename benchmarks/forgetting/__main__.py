"""`make bench-forgetting`: what a model forgets of what it knew, while it learns as much by one method as by another.

Written to benchmarks/results/forgetting.json, forgetting.md and plots.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.forgetting import figure, publish
from benchmarks.forgetting.comparison import Curve, Measured, Run, gentlest
from benchmarks.forgetting.experiment import fine_tune, teach
from benchmarks.forgetting.methods import METHODS

RESULTS = Path(__file__).resolve().parent.parent / "results"
RATES = (1e-4, 3e-4, 1e-3)
# Rates are chosen on seeds of their own.
CHOOSING_SEEDS = (101, 102)
SEEDS = (1, 2, 3, 4, 5)


def fine_tuned(seed: int, runs: Sequence[Run]) -> dict[Run, Curve]:
    """The curves of one seed. In a process of its own."""
    # As many processes as there are CPUs; and sums come in the same order everywhere.
    torch.set_num_threads(1)
    taught = teach(seed)
    with tempfile.TemporaryDirectory(prefix="bench-forgetting-") as decompositions:
        return {run: fine_tune(taught, *run, Path(decompositions)) for run in runs}


def measure(processes: int) -> Measured:
    """Choose each method's rate, then compare."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:

        def of_seeds(seeds: Sequence[int], runs: Sequence[Run]) -> dict[Run, list[Curve]]:
            by_seed = list(pool.map(fine_tuned, seeds, [runs] * len(seeds)))
            return {run: [curves[run] for curves in by_seed] for run in runs}

        tried = of_seeds(CHOOSING_SEEDS, [(method, rate) for method in METHODS for rate in RATES])
        chosen = {method: gentlest({rate: tried[method, rate] for rate in RATES}) for method in METHODS}
        print(f"learning rates: {chosen}", flush=True)
        # Guides recommend the same rates for both, so that is looked at, too. A dict, for it may be chosen already.
        runs = dict.fromkeys([("sft", chosen["sft"]), ("sft", chosen["osft_0.5"]), *chosen.items()])
        return Measured(chosen, of_seeds(SEEDS, list(runs)), tried)


def main() -> None:
    """Measure, and write benchmarks/results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forgetting", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write into")
    results = parser.parse_args().results
    began = time.monotonic()
    measured = measure(processes=len(os.sched_getaffinity(0)))
    results.mkdir(parents=True, exist_ok=True)
    publish.write(measured, results)
    figure.draw(measured, results / "forgetting")
    print(
        f"\n{publish.markdown(measured)}\n{time.monotonic() - began:.0f} s; written to {results}/forgetting.*"
    )


if __name__ == "__main__":
    main()
