"""The preparation of a run's data, as the first process of a pod without GPUs: no other pod is made before it is done.

Everything that can be known to be wrong with a job's inputs is found here.
"""

import logging
import time
from pathlib import Path

from finetune_api import names
from finetune_api.report import Preparation, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import alone, checks
from finetune_trainer.alone import Words, Work
from finetune_trainer.ends.signals import Stop
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources import record
from finetune_trainer.sources.fetching import fetch, look_at
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

WORDS = Words(name="the preparation", product="the prepared data", undone="the data were prepared")

# The log is for people: a line now and then.
_LOG_SECONDS = 10.0


def prepare_run(file: Path, stop: Stop) -> int:
    """Prepare and plan what the RunConfig in `file` says; returns an exit code of finetune_api.failure."""
    return alone.run(Work(names.PREPARATION, WORDS, _check, _prepare), file, stop)


def _check(config: RunConfig) -> None:
    checks.check(config, node=0, later=record.missing(config))


def _prepare(config: RunConfig, storage: Storage, reporter: Reporter) -> None:
    config = fetch(config, reporter)
    checks.check_inputs(config)
    reporter.stage(Stage.PREPARING, inputs=look_at(config, reporter.tick))
    # Reading data takes libraries that a wrong path need not wait for.
    from finetune_trainer.planning import context_length, gather, make_plan
    from finetune_trainer.prepare.data_sets import prepare_all

    shown = Shown()

    def progress(done: Preparation) -> None:
        reporter.tick(preparation=done)
        shown(done)

    length = context_length(Path(config.locations.model), config.hyperparameters)
    data = prepare_all(config, length, progress)
    plan = make_plan(gather(config, data.train, length, reporter.tick, storage=storage))
    _log.info("%d steps of %d samples", plan.total_steps, plan.effective_batch_size)
    reporter.stage(
        Stage.FINISHED,
        preparation=None,
        dataset=data.train.status,
        evaluation_data=data.evaluation_data,
        plan=plan,
    )


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
