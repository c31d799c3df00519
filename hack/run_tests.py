#!/usr/bin/env python3
"""Run the tiers of the tests that this machine can run, and say aloud which were left out, and why (`make test`).

Two lanes side by side: `unit` and `trainer` compute, while binaries and images for `cluster` and `e2e` are built.
`e2e` comes last and alone, since its pods are a whole training run.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from clusters import choice

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "test-logs"


@dataclass(frozen=True)
class Tier:
    """Tests that need the same of a machine."""

    name: str
    about: str
    runs: tuple[tuple[str, ...], ...]
    """What pytest is given, run by run: a folder, and how many processes share its tests."""
    prepare: tuple[tuple[str, ...], ...] = ()
    """Commands that must have succeeded before."""
    obstacle: Callable[[], str | None] = lambda: None
    """Why this machine cannot run it; None if it can."""


TIERS = {
    tier.name: tier
    for tier in (
        Tier("unit", "pure functions", runs=(("tests/unit", "-n", "2"),)),
        Tier(
            "trainer",
            "real training on the CPU, several processes",
            # Many tests wait for processes that wait for one another.
            runs=(("tests/trainer", "-n", "2", "--dist", "loadgroup"),),
        ),
        Tier(
            "cluster",
            "a real API server",
            # They wait more than they compute. Each process has a control plane of its own.
            runs=(("tests/cluster", "-n", "2", "--dist", "loadfile"), ("tests/chaos", "-n", "3")),
            prepare=(("hack/cluster", "build", "--control-plane", "--tests"),),
            obstacle=choice.control_plane_obstacle,
        ),
        Tier(
            "e2e",
            "real pods",
            runs=(("tests/e2e",),),
            prepare=((sys.executable, "hack/deploy.py"),),
            obstacle=choice.cluster_obstacle,
        ),
    )
}


@dataclass(frozen=True)
class Result:
    """What became of a tier."""

    tier: Tier
    outcome: str
    """passed, FAILED, or why it was skipped."""
    seconds: float


class Runner:
    """Runs tiers one after the other in each lane; output is shown when a tier is done, so lanes do not mix."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._printing = threading.Lock()

    def say(self, text: str) -> None:
        """Print one line, whole."""
        with self._printing:
            print(text, flush=True)

    def run(self, tier: Tier, *, before_tests: Callable[[], None] = lambda: None) -> None:
        """Prepare and run one tier; `before_tests` is called between the two."""
        if reason := tier.obstacle():
            self.results.append(Result(tier, f"skipped: {reason}", 0))
            return
        start = time.monotonic()
        self.say(f"==> {tier.name}: {tier.about}")
        passed = all(self._command(tier, command) for command in tier.prepare)
        before_tests()
        # Every run, for what one shows does not depend on another.
        tested = [self._command(tier, (sys.executable, "-m", "pytest", *run)) for run in tier.runs if passed]
        passed = passed and all(tested)
        self.results.append(Result(tier, "passed" if passed else "FAILED", time.monotonic() - start))

    def _command(self, tier: Tier, command: tuple[str, ...]) -> bool:
        log = LOGS / f"{tier.name}.log"
        with log.open("w+") as output:
            started = time.monotonic()
            process = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
            output.seek(0)
            text = output.read().rstrip()
        took = f"{time.monotonic() - started:.0f} s"
        self.say(f"--- {tier.name}: {' '.join(command)}  [exit {process.returncode}, {took}]\n{text}")
        return process.returncode == 0


@click.command()
@click.argument("tiers", nargs=-1, type=click.Choice(list(TIERS)))
@click.option("--require", default="", help="Tiers that must not be skipped.")
def main(tiers: tuple[str, ...], require: str) -> None:
    """Run the given TIERS of the tests, or all."""
    wanted = [TIERS[name] for name in TIERS if not tiers or name in tiers]
    LOGS.mkdir(parents=True, exist_ok=True)
    runner = Runner()
    was_up = choice.is_up()

    def lane(names: tuple[str, ...], before_tests: Callable[[], None] = lambda: None) -> None:
        for tier in wanted:
            if tier.name in names:
                runner.run(tier, before_tests=before_tests)

    computing = threading.Thread(target=lane, args=(("unit", "trainer"),))
    computing.start()
    lane(("cluster",))
    lane(("e2e",), before_tests=computing.join)
    computing.join()
    if choice.is_up() and not was_up:
        subprocess.run(["hack/cluster", "down"], cwd=ROOT, check=True)

    print("\nTier      Result")
    for result in sorted(runner.results, key=lambda result: list(TIERS).index(result.tier.name)):
        took = f" in {result.seconds:.0f} s" if result.seconds else ""
        print(f"{result.tier.name:<9} {result.outcome}{took}")
    skipped = {result.tier.name for result in runner.results if result.outcome.startswith("skipped")}
    if missing := skipped & set(require.split()):
        print(f"required, but skipped: {', '.join(sorted(missing))}")
    if missing or any(result.outcome == "FAILED" for result in runner.results):
        sys.exit(1)


if __name__ == "__main__":
    main()
