"""Pure: the jobs of the benchmark, as users would write them and as the operator leaves them behind."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.curve import Curve
from finetune_api.report import Report, Stage
from finetune_api.status import FineTuneJobStatus
from world import INLINE, OUTPUT, World, checkpoint, manifest, report

Wire = dict[str, Any]

_POINTS = 60
_CHECKPOINTS = 12
# Where the trainer of a job is when the benchmark reports for it.
_STEP = 12


def running(name: str) -> Wire:
    """A job of two pods that the scheduler places anywhere."""
    resources = {"nodes": 2, "gpusPerNode": 0, "requests": {"cpu": "1", "memory": "1Gi"}}
    return manifest(name, dataset=INLINE, resources=resources)


def suspended(name: str) -> Wire:
    """A job that costs nothing but the look at it, and whose status tells when that has been."""
    return manifest(name, dataset=INLINE, suspend=True)


def finished(name: str) -> tuple[Wire, Wire]:
    """A job that has succeeded at its second attempt a while ago: what was submitted, and its status."""
    return manifest(name, dataset=INLINE), _STATUS


def progress(sequence: int) -> Report:
    """What the trainer of a running job tells of one of its steps, with what it has told already."""
    saved = [checkpoint(step, "resume") for step in (4, 8, _STEP)]
    return report(1, sequence, _STEP + sequence, checkpoints=saved)


def _finished_status() -> Wire:
    """What the reconciler itself writes in the course of such a job, with a curve as long ones have it."""
    world = World(spec={"dataset": INLINE}, now=datetime.now(UTC).replace(microsecond=0) - timedelta(days=1))
    world.settle()
    world.run_pods()
    world.post(report(1, 3, 12, checkpoints=[checkpoint(12, "resume")]))
    world.turn()
    world.fail_pod(0, 137, reason="Error", log="\n".join(["a line of what the trainer said last"] * 40))
    world.jobs[world.created[-1]] = replace(world.jobs[world.created[-1]], failed=True)
    world.settle()
    world.run_pods()
    listed = [checkpoint(step, "weights") for step in range(3, 3 * _CHECKPOINTS + 1, 3)]
    world.succeed(report(2, 99, 36, stage=Stage.FINISHED, output=OUTPUT, checkpoints=listed))
    world.settle()
    steps = range(10, 10 * _POINTS + 1, 10)
    curve = Curve(
        steps=list(steps),
        loss=[round(1 + 10 / step, 4) for step in steps],
        learning_rate=[round(5e-6 * (1 - step / 1300), 10) for step in steps],
        tokens_per_second=[10_000.0 + step for step in steps],
        validation_steps=list(steps)[::5],
        validation_loss=[round(1.1 + 10 / step, 4) for step in steps][::5],
    )
    return FineTuneJobStatus.model_validate(world.status.model_dump() | {"curve": curve}).to_wire()


_STATUS = _finished_status()
