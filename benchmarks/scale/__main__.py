"""`make bench-scale`: the operator with 1,000 running jobs and 10,000 finished ones.

Written to benchmarks/results/scale.md, scale.json and scale.png. With --quick, some few jobs are made, and what they
show is shown, but nothing is written.
"""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.scale import publish
from benchmarks.scale.course import Result, perform
from benchmarks.scale.figures import figures
from benchmarks.scale.sizes import FULL, QUICK
from benchmarks.scale.stand import stand

RESULTS = Path(__file__).resolve().parent.parent / "results"


@click.command()
@click.option("--quick", is_flag=True, help="Only try it, with few jobs; nothing is written.")
def main(quick: bool) -> None:
    """Measure, and write down."""
    machine = f"{os.cpu_count()} CPUs ({platform.machine()}), load {os.getloadavg()[0]:.1f} when it began"
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s: {words}", flush=True)

    result = Result()
    with (
        tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch,
        result.spared(),
        stand(Path(scratch)) as made,
    ):
        perform(made, QUICK if quick else FULL, result, say)
    if quick:
        print(publish.markdown(result, machine, figures(result)))
    else:
        print(publish.write(result, machine, RESULTS))
    if result.failures:
        sys.exit("not measured:\n" + "\n".join(result.failures))


if __name__ == "__main__":
    main()
