"""The preparation of a run's data, as the first process of a pod without GPUs: no other pod is made before it is done.

Everything that can be known to be wrong with a job's inputs is found here.
"""

import logging
import signal
import time
import traceback
from pathlib import Path

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Failure, Preparation, Report, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks
from finetune_trainer.ends import full_storage
from finetune_trainer.ends.errors import KnownEnd, TerminatedError, of_system
from finetune_trainer.ends.signals import Stop
from finetune_trainer.launch import Output
from finetune_trainer.reports.post import Poster
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.reports.termination import end
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

# The log is for people: a line now and then.
_LOG_SECONDS = 10.0


def prepare_run(file: Path, stop: Stop) -> int:
    """Prepare and plan what the RunConfig in `file` says; returns an exit code of finetune_api.failure."""
    config, reporter = None, None
    try:
        stop_on_signals(stop)
        config = checks.load(file)
        checks.check(config, node=0)
        storage = Storage.of(config)
        _log_to(storage)
        reporter = Reporter(storage, names.PREPARATION, Poster.of(config, file), silent=False)
        _prepare(config, storage, reporter)
        ignore_signals()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and ends the process
        ignore_signals()
        failure = explain(error, config)
        _log.error("%s (exit code %d): %s", failure.reason, failure.exit_code, failure.message)
        if reporter is None:
            return end(Report(attempt=names.PREPARATION, sequence=0, stage=Stage.FAILED, failure=failure))
        try:
            reporter.stage(Stage.FAILED, preparation=None, failure=failure)
        except OSError as full:
            _log.error("the last Report is not kept on the volume: %s", full)
    exit_code = end(reporter.report)
    reporter.close()
    return exit_code


def _prepare(config: RunConfig, storage: Storage, reporter: Reporter) -> None:
    reporter.stage(Stage.PREPARING)
    # Reading data takes libraries that a wrong path need not wait for.
    from finetune_trainer.planning import context_length, gather, make_plan
    from finetune_trainer.prepare.pipeline import prepare

    shown = Shown()

    def progress(done: Preparation) -> None:
        reporter.tick(preparation=done)
        shown(done)

    length = context_length(Path(config.locations.model), config.hyperparameters)
    prepared = prepare(config, length, progress)
    plan = make_plan(gather(config, prepared, length, reporter.tick, storage=storage))
    _log.info("%d steps of %d samples", plan.total_steps, plan.effective_batch_size)
    reporter.stage(Stage.FINISHED, preparation=None, dataset=prepared.status, plan=plan)


class Shown:
    """Progress, in the log now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: Preparation) -> None:
        """Take note of how far the preparation has come."""
        now = time.monotonic()
        if now - self._last >= _LOG_SECONDS:
            self._last = now
            _log.info("%d rows are read, %d %% of the data", done.rows, done.percent)


def explain(error: BaseException, config: RunConfig | None = None) -> Failure:
    """What went wrong, as a Report tells it. What nobody expected is logged with its traceback."""
    if config is not None and (message := full_storage.said(error, config)):
        return Failure.of(ExitCode.STORAGE_FULL, message)
    if isinstance(error, KnownEnd):
        return error.failure
    if isinstance(error, OSError):
        known = of_system(error, f"cannot read or write {error.filename or 'the prepared data'}")
        if known.exit_code != ExitCode.ERROR:
            return known.failure
    _log.error("the preparation failed", exc_info=error)
    log = "".join(traceback.format_exception(error))
    return Failure.of(ExitCode.ERROR, f"{type(error).__name__}: {error}", log=log)


def stop_on_signals(earlier: Stop) -> None:
    """End in good order on SIGTERM and SIGINT, and on those that came `earlier`."""

    def stop(*_: object) -> None:
        raise TerminatedError("asked to stop before the data were prepared")

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


def _log_to(storage: Storage) -> None:
    handler = _Handler(Output(storage.log(names.PREPARATION, 0)))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
