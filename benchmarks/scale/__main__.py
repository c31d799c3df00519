"""`make bench-scale`: the operator with 1,000 running jobs and 10,000 finished ones.

Written to benchmarks/results/scale.md, scale.json and scale.png. With --quick, some few jobs are made, and what they
show is shown, but nothing is written.
"""

import os
import platform
import sys
import tempfile
import time
import traceback
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

    result, failures = Result(), list[str]()
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch:
        try:
            with stand(Path(scratch)) as made:
                perform(made, QUICK if quick else FULL, result, say)
        except Exception as error:  # noqa: BLE001 - told in the end; what is measured is not lost
            traceback.print_exc()
            failures.append(f"{type(error).__name__}: {error}")
    if quick:
        print(publish.markdown(result, failures, machine, figures(result)))
    else:
        print(publish.write(result, failures, machine, RESULTS))
    if failures:
        sys.exit("not measured:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
