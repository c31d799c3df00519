"""The first process of a pod that works alone, before there is a gang or after it: how it stops, logs and ends."""

import logging
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.failure import ExitCode
from finetune_api.report import Failure, Report, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks
from finetune_trainer.ends import full_storage
from finetune_trainer.ends.errors import KnownEnd, TerminatedError, of_system
from finetune_trainer.ends.signals import Stop
from finetune_trainer.launch import Output
from finetune_trainer.noise import leave_out_noise
from finetune_trainer.reports.post import Poster
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.reports.termination import end
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Words:
    """What messages call a piece of work."""

    name: str
    """The work itself."""
    product: str
    """What it makes."""
    undone: str
    """What is not so yet while it goes on."""


@dataclass(frozen=True)
class Work:
    """What such a process does of a run."""

    attempt: int
    """What it stands in Reports as."""
    words: Words
    check: Callable[[RunConfig], None]
    """Makes sure that its inputs are there, and that the storage is this run's own. Imports nothing heavy."""
    do: Callable[[RunConfig, Storage, Reporter], None]
    """Does it, and reports Stage.FINISHED."""


def run(work: Work, file: Path, stop: Stop) -> int:
    """Do the work of the run whose RunConfig is `file`; returns an exit code of finetune_api.failure."""
    config, reporter = None, None
    try:
        stop_on_signals(stop, work.words)
        config = checks.load(file)
        work.check(config)
        storage = Storage.of(config)
        _log_to(storage, work.attempt)
        reporter = Reporter(storage, work.attempt, Poster.of(config, file), silent=False)
        work.do(config, storage, reporter)
        ignore_signals()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and ends the process
        ignore_signals()
        failure = explain(error, work.words, config)
        _log.error("%s (exit code %d): %s", failure.reason, failure.exit_code, failure.message)
        if reporter is None:
            return end(Report(attempt=work.attempt, sequence=0, stage=Stage.FAILED, failure=failure))
        try:
            reporter.stage(Stage.FAILED, preparation=None, transfer=None, failure=failure)
        except OSError as full:
            _log.error("the last Report is not kept on the volume: %s", full)
    exit_code = end(reporter.report)
    reporter.close()
    return exit_code


def without_run(words: Words, stop: Stop, work: Callable[[], str]) -> int:
    """Do work of no run, and print what it answers; returns an exit code of finetune_api.failure."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    leave_out_noise()
    logging.captureWarnings(True)
    try:
        stop_on_signals(stop, words)
        answer = work()
        ignore_signals()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and ends the process
        ignore_signals()
        failure = explain(error, words)
        sys.stderr.write(f"finetune-trainer: {failure.message}\n")
        return failure.exit_code
    sys.stdout.write(answer)
    return ExitCode.SUCCESS


def explain(error: BaseException, words: Words, config: RunConfig | None = None) -> Failure:
    """What went wrong, as a Report tells it. What nobody expected is logged with its traceback."""
    if config is not None and (message := full_storage.said(error, config)):
        return Failure.of(ExitCode.STORAGE_FULL, message)
    if isinstance(error, KnownEnd):
        return error.failure
    if isinstance(error, OSError):
        known = of_system(error, f"cannot read or write {error.filename or words.product}")
        if known.exit_code != ExitCode.ERROR:
            return known.failure
    _log.error("%s failed", words.name, exc_info=error)
    log = "".join(traceback.format_exception(error))
    return Failure.of(ExitCode.ERROR, f"{type(error).__name__}: {error}", log=log)


def stop_on_signals(earlier: Stop, words: Words) -> None:
    """End in good order on SIGTERM and SIGINT, and on those that came `earlier`."""

    def stop(*_: object) -> None:
        raise TerminatedError(f"asked to stop before {words.undone}")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if earlier.requested:
        stop()


def ignore_signals() -> None:
    """From now on there is nothing left to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _Handler(logging.Handler):
    """Log records on standard output, kept on the storage volume too."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))


def _log_to(storage: Storage, attempt: int) -> None:
    handler = _Handler(Output(storage.log(attempt, 0)))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    leave_out_noise()
    logging.captureWarnings(True)
