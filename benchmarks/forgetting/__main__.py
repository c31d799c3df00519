"""`make bench-forgetting`: what a model forgets of what it knew, while it learns as much by one method as by another.

Written to benchmarks/results/forgetting.json, forgetting.md and plots.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.forgetting import figure, publish
from benchmarks.forgetting.comparison import Curve, Measured, Run, gentlest
from benchmarks.forgetting.experiment import RATES, fine_tuned
from benchmarks.forgetting.methods import METHODS

RESULTS = Path(__file__).resolve().parent.parent / "results"
# Rates are chosen on seeds of their own.
CHOOSING_SEEDS = (101, 102)
SEEDS = (1, 2, 3, 4, 5)


def measure(processes: int) -> Measured:
    """Every method at every rate, with every seed."""
    found: dict[int, dict[Run, Curve]] = {}
    seeds = CHOOSING_SEEDS + SEEDS
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed, curves in zip(seeds, pool.map(fine_tuned, seeds), strict=True):
            found[seed] = curves
            print(f"{len(found)} of {len(seeds)} seeds", flush=True)
    return Measured(
        curves={run: [found[seed][run] for seed in SEEDS] for run in found[SEEDS[0]]},
        chosen={
            method: gentlest({rate: [found[seed][method, rate] for seed in CHOOSING_SEEDS] for rate in RATES})
            for method in METHODS
        },
    )


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
