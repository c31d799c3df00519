"""`make soak`: an hour of small jobs and of faults on a local cluster; nothing may be lost, and nothing may leak.

Written to benchmarks/results/soak.md, soak.json and soak.png, also when it is interrupted.
"""

import os
import random
import shutil
import signal
import sys
import time

import click

from benchmarks.soak import place as places
from benchmarks.soak.course import Soak
from benchmarks.soak.figures import Course
from benchmarks.soak.manifests import save_inputs
from benchmarks.soak.publish import RESULTS, publish
from benchmarks.soak.story import STORIES


@click.command()
@click.option(
    "--minutes", default=60.0, show_default=True, help="How long jobs are started and faults happen."
)
@click.option("--seed", type=int, help="Draws the same jobs and faults again. Left out, it is drawn, too.")
def main(minutes: float, seed: int | None) -> None:
    """Run jobs and faults side by side on a local cluster of its own, which is gone in the end."""
    # As Ctrl-C does: what has been found so far is written down, and the cluster taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["CLUSTER"] = "local"  # the only kind whose parts can be killed one by one
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    _say(f"seed {seed}")
    shutil.rmtree(STORIES, ignore_errors=True)
    places.down()
    try:
        place = places.up()
        save_inputs(place.models, place.data)
        soak = Soak(place, seed, minutes, _say)
        try:
            soak.run()
        finally:
            publish(soak.course)
    finally:
        places.down()
    sys.exit(_judge(soak.course))


def _judge(course: Course) -> str | None:
    """What to end with; None where all is well."""
    faults = [
        f"{ended.plan.name}: {'; '.join(ended.problems)}; see {STORIES / ended.plan.name}"
        for ended in course.lost
    ]
    faults += [f"{name} did not end" for name in course.under_way]
    faults += [f"{quantity}: more than before the first job" for quantity in course.left()]
    faults += [f"{quantity} leaks; see {RESULTS / 'soak.md'}" for quantity in course.leaks()]
    return "\n".join(faults) or None


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}")


if __name__ == "__main__":
    main()
