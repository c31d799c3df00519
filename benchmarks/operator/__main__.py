"""`make bench-operator`: FineTuneJobs beside bare Jobs and Kubeflow's TrainJobs, on one control plane.

Written to benchmarks/results/operator.md, operator.json and operator.png. With --quick, some small work is done, and
shown, but nothing is written.
"""

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from benchmarks.operator import audit, publish
from benchmarks.operator.figures import figures
from benchmarks.operator.samples import Turn
from benchmarks.operator.systems import BY_NAME, SYSTEMS
from benchmarks.operator.turn import Rig
from benchmarks.operator.work import DEFAULT, EQUALISED, QUICK, Limits
from cluster.kube import Kube
from clusters.local import ControlPlane

RESULTS = Path(__file__).resolve().parent.parent / "results"


def measure(limits: Limits, scratch: Path, turns: list[Turn], failures: list[str]) -> None:
    """All turns under the same limits, on a control plane of their own; what fails is told, and the rest goes on."""
    policy, log = scratch / "policy.yaml", scratch / "audit.log"
    policy.write_text(yaml.safe_dump(audit.POLICY))
    log.touch()
    options = (
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        # Not in the way of requests, and soon enough for waiting until all is quiet.
        "--audit-log-mode=batch",
        "--audit-log-batch-max-wait=500ms",
    )
    rate = limits.requests_per_second
    manager = [f"--kube-api-qps={rate}", f"--kube-api-burst={rate}"] if rate is not None else []
    with ControlPlane(*options, controller_manager_options=manager) as plane:
        Kube(plane.kubeconfig).install_crd()
        rig = Rig(plane.kubeconfig, log, limits, scratch)
        for work in limits.works:
            for repetition in range(work.repetitions):
                for name in SYSTEMS:
                    began = time.monotonic()
                    about = f"{limits.name} limits, {work.label}, {name}"
                    try:
                        turn = rig.turn(BY_NAME[name], work, repetition)
                    except Exception as error:  # noqa: BLE001 - told in the end; the other turns are not lost
                        traceback.print_exc()
                        failures.append(f"{about}: {str(error).splitlines()[0]}")
                        continue
                    turns.append(turn)
                    took = time.monotonic() - began
                    print(f"{about}: {turn.jobs_per_second:.2f} jobs/s ({took:.0f} s)", flush=True)


def machine() -> str:
    """What it was measured on."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs ({platform.machine()}), load {load:.1f} when it began"


@click.command()
@click.option("--quick", is_flag=True, help="Only try it, in two minutes; nothing is written.")
def main(quick: bool) -> None:
    """Measure, and write down."""
    # Watches and makers of jobs share the interpreter: an event is to be seen when it comes.
    sys.setswitchinterval(0.0005)
    turns: list[Turn] = []
    failures: list[str] = []
    where = machine()
    all_limits: Sequence[Limits] = QUICK if quick else (DEFAULT, EQUALISED)
    for limits in all_limits:
        with tempfile.TemporaryDirectory(prefix="bench-operator-") as scratch:
            try:
                measure(limits, Path(scratch), turns, failures)
            except Exception as error:  # noqa: BLE001 - told in the end; what is measured is not lost
                traceback.print_exc()
                failures.append(f"{limits.name} limits: {error}")
    if not quick and turns:
        print(publish.write(turns, failures, where, RESULTS))
    elif turns:
        print(publish.markdown(turns, failures, where, figures(turns)))
    if failures:
        sys.exit("not measured:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
