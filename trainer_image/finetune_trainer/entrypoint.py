"""The container's first process: checks what it was given, starts the workers, and tells how they ended.

Nothing heavy is imported here, so a wrong path is reported within a second.
"""

import os
import sys
import tempfile
from pathlib import Path

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.precedents import TokenBudget
from finetune_api.report import Failure, Report, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks, commit, precedents
from finetune_trainer.checkpoints import best, shelf
from finetune_trainer.ends import causes
from finetune_trainer.ends.errors import TrainerError, of_system
from finetune_trainer.ends.signals import Stop
from finetune_trainer.launch import Output, Workers
from finetune_trainer.reports import history
from finetune_trainer.reports.post import Poster
from finetune_trainer.reports.termination import end
from finetune_trainer.storage import Storage

# The end of the grace period may be near.
_POST_SECONDS = 2
_NOTHING_SAVED = "asked to stop, and ended without saving a newer state"


def train(file: Path, stop: Stop) -> int:
    """Run this node's part of the training gang; returns an exit code of finetune_api.failure."""
    attempt = int(os.environ.get(names.ENV_ATTEMPT, "1"))
    node = int(os.environ.get("PET_NODE_RANK", "0"))
    try:
        config = checks.load(file)
        storage = Storage.of(config)
        if finished := history.finished_output(storage):
            if node == 0:
                # An attempt may have been killed right after its model was complete.
                shelf.clear(storage)
                _remove_incomplete(storage)
                if config.checkpoints.keep_best:
                    best.prune(storage)
            report = history.last_report(storage, attempt)
            shown = {"output": finished, "evaluation": history.evaluation(storage)}
            return end(report.model_copy(update={"stage": Stage.FINISHED, **shown}))
        checks.check(config, node=node)
        output = Output(storage.log(attempt, node))
    except (TrainerError, OSError) as error:
        known = (
            error if isinstance(error, TrainerError) else of_system(error, f"spec.storage: {error.filename}")
        )
        sys.stderr.write(f"finetune-trainer: {known}\n")
        return end(Report(attempt=attempt, sequence=0, stage=Stage.FAILED, failure=known.failure))

    failure = Node(config, file, node, stop, output).run()
    if failure:
        output.say(f"{failure.reason} (exit code {failure.exit_code}): {failure.message}")
    stage = Stage.FAILED if failure else Stage.FINISHED
    if node > 0:
        # Rank 0's node speaks for the gang; the others say no more than how they ended.
        return end(Report(attempt=attempt, sequence=0, stage=stage, failure=failure))
    try:
        report = history.last_report(storage, attempt)
    except OSError as error:
        # The volume may be what failed.
        output.say(f"what was reported before cannot be read: {error}")
        report = Report(attempt=attempt, sequence=0, stage=stage)
    report = report.model_copy(update={"stage": stage, "failure": failure})
    exit_code = end(report)
    try:
        history.keep(storage, report)
    except OSError as error:
        output.say(f"the last Report is not kept on the volume: {error}")
    # The termination message goes with the pod, which the cluster may remove as soon as it has ended.
    if poster := Poster.of(config, file):
        poster.offer(report.to_json(), urgent=True)
        poster.close(within=_POST_SECONDS)
    if failure and not stop.requested:
        try:
            _remove_incomplete(storage)
        except OSError as error:
            output.say(f"what was not completed is not removed: {error}")
    return exit_code


def _remove_incomplete(storage: Storage) -> None:
    """Give back the space of what no process will complete any more; after some failures no next attempt would."""
    for parent in (storage.root, storage.checkpoints, storage.resume):
        commit.remove_incomplete(parent)


class Node:
    """The training processes of this node, from their first start to their end for good."""

    def __init__(self, config: RunConfig, file: Path, node: int, stop: Stop, output: Output) -> None:
        """`file` has the `config`; `output` takes what the processes print."""
        self._config = config
        self._file = file
        self._node = node
        self._stop = stop
        self._output = output

    def run(self) -> Failure | None:
        """Start them, and again whenever the gang left to go on with a smaller token budget; None when all is done."""
        budget, relaunches = self._budget(), 0
        while not self._stop.requested:
            failure = self._launch(relaunches)
            if failure is None or failure.exit_code != ExitCode.SMALLER_BUDGET:
                return failure
            # Rank 0's node knows; where it gives up, the others have nobody to meet.
            before, budget = budget, self._budget()
            if self._node == 0 and budget == before:
                return Failure.of(
                    ExitCode.OUT_OF_MEMORY,
                    f"{failure.message}; the token budget did not become smaller than before",
                    log=failure.log,
                )
            relaunches += 1
            self._output.say(f"{failure.message}; start {relaunches + 1} of the training processes")
        said = "asked to stop before the training processes started again" if relaunches else _NOTHING_SAVED
        return Failure.of(ExitCode.TERMINATED, said)

    def _budget(self) -> TokenBudget | None:
        """The token budget that this run came down to, in earlier attempts too."""
        return precedents.budget(Storage.of(self._config))

    def _launch(self, relaunch: int) -> Failure | None:
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            workers = Workers(
                self._config,
                self._file,
                node=self._node,
                relaunch=relaunch,
                scratch=Path(scratch),
                output=self._output,
            )
            self._stop.passes_to(workers)
            code = workers.wait()
            if code == 0:
                return None
            failure = causes.explain(causes.collect(Path(scratch)), self._output.tail)
        # Processes that are asked to stop before they trained do not end together; one's end is a loss to another.
        if failure and not (self._stop.requested and failure.exit_code == ExitCode.COLLECTIVE_TIMEOUT):
            return failure
        if self._stop.requested:
            return Failure.of(ExitCode.TERMINATED, _NOTHING_SAVED)
        if code < 0:
            return causes.explain([causes.of_signal(workers.name, -code)], self._output.tail)
        return Failure.of(
            ExitCode.ERROR, f"{workers.name} ended with exit code {code}", log=self._output.tail
        )
