"""The container's first process: checks what it was given, starts the workers, and tells how they ended.

Nothing heavy is imported here, so a wrong path is reported within a second.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Failure, Report, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import causes, checks, history
from finetune_trainer.errors import TrainerError, of_system
from finetune_trainer.launch import Output, Workers
from finetune_trainer.storage import Storage
from finetune_trainer.termination import end


class _Stop:
    """Reaction to SIGTERM and SIGINT; the first process of a container has none by default."""

    def __init__(self) -> None:
        self.requested = False
        self.workers: Workers | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def watch(self, workers: Workers) -> None:
        """Pass requests on to workers, even one that came while they were being started."""
        self.workers = workers
        if self.requested:
            workers.terminate()

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if self.workers:
            self.workers.terminate()


def train(file: Path) -> int:
    """Run this node's part of the training gang; returns an exit code of finetune_api.failure."""
    stop = _Stop()
    attempt = int(os.environ.get(names.ENV_ATTEMPT, "1"))
    node = int(os.environ.get("PET_NODE_RANK", "0"))
    try:
        config = checks.load(file)
        storage = Storage.of(config)
        if finished := history.finished_output(storage):
            report = history.last_report(storage, attempt)
            return end(report.model_copy(update={"stage": Stage.FINISHED, "output": finished}))
        checks.check(config, node=node)
        output = Output(storage.log(attempt, node))
    except (TrainerError, OSError) as error:
        known = (
            error if isinstance(error, TrainerError) else of_system(error, f"spec.storage: {error.filename}")
        )
        sys.stderr.write(f"finetune-trainer: {known}\n")
        return end(Report(attempt=attempt, sequence=0, stage=Stage.FAILED, failure=known.failure))

    failure = _run(config, file, node, stop, output)
    if failure:
        output.say(f"{failure.reason} (exit code {failure.exit_code}): {failure.message}")
    stage = Stage.FAILED if failure else Stage.FINISHED
    if node > 0:
        # Rank 0's node speaks for the gang; the others say no more than how they ended.
        return end(Report(attempt=attempt, sequence=0, stage=stage, failure=failure))
    report = history.last_report(storage, attempt).model_copy(update={"stage": stage, "failure": failure})
    exit_code = end(report)
    try:
        history.keep(storage, report)
    except OSError as error:
        output.say(f"the last Report is not kept on the volume: {error}")
    return exit_code


def _run(config: RunConfig, file: Path, node: int, stop: _Stop, output: Output) -> Failure | None:
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        workers = Workers(config, file, node=node, scratch=Path(scratch), output=output)
        stop.watch(workers)
        code = workers.wait()
        if code == 0:
            return None
        failure = causes.explain(causes.collect(Path(scratch)))
    # Processes that are asked to stop before they trained do not end together; one's end is a loss to another.
    if failure and not (stop.requested and failure.exit_code == ExitCode.COLLECTIVE_TIMEOUT):
        return failure
    if stop.requested:
        return Failure.of(ExitCode.TERMINATED, "asked to stop, and ended without saving a newer state")
    if code < 0:
        return Failure.of(causes.from_signal(-code), f"torchrun was ended by {signal.Signals(-code).name}")
    return Failure.of(ExitCode.ERROR, f"torchrun ended with exit code {code}; the log tells more")
