"""Pure: the pods of a gang, as they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_operator.observation.observed import Pod


@dataclass(frozen=True)
class Row:
    """A pod."""

    name: str
    node: str
    words: str
    """What it does, or what holds it up."""
    is_well: bool = True


@dataclass(frozen=True)
class Gang:
    """Those of the newest Job."""

    rows: tuple[Row, ...] = ()
    hidden: str | None = None
    """Why they cannot be seen, if they cannot."""


def gang(pods: Sequence[Pod]) -> Gang:
    """The pods of the newest Job among those of a FineTuneJob: others are ending, or stay for their logs."""
    newest = max(pods, key=lambda pod: (pod.created is not None, pod.created, pod.name), default=None)
    if newest is None:
        return Gang()
    of_newest = [pod for pod in pods if pod.job_uid == newest.job_uid]
    return Gang(tuple(_row(pod) for pod in sorted(of_newest, key=lambda pod: (pod.index or 0, pod.name))))


def _row(pod: Pod) -> Row:
    node = pod.node or "-"
    if pod.end is not None:
        told = pod.end.reason or "Failed"
        code = f", exit code {pod.end.exit_code}" if pod.end.exit_code is not None else ""
        return Row(pod.name, node, f"{told}{code}", is_well=False)
    if pod.deleting:
        return Row(pod.name, node, "Ending")
    if pod.finished is not None:
        return Row(pod.name, node, "Succeeded")
    if pod.running:
        return Row(pod.name, node, "Running")
    if pod.waiting is None:
        return Row(pod.name, node, "Pending")
    reason, message = pod.waiting
    return Row(pod.name, node, f"{reason}: {message}" if message else reason, is_well=not message)
