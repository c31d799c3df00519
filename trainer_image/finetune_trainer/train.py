"""One process's whole course: prepare, plan, load, train, and leave a model behind."""

import logging
from pathlib import Path

from finetune_api.report import Preparation, Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import commit, progress_bars
from finetune_trainer.adviser import lasting
from finetune_trainer.card.environment import Environment
from finetune_trainer.card.writer import Card
from finetune_trainer.checkpoints import best
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.stopping import StopRequest
from finetune_trainer.loop import Loop
from finetune_trainer.methods import method_of
from finetune_trainer.model import load_config
from finetune_trainer.planning import ExactPlan, Planner, context_length
from finetune_trainer.prepare.data_sets import PreparedData, open_all, prepare_all
from finetune_trainer.reports import history
from finetune_trainer.reports.post import Poster
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources.fetching import look_at
from finetune_trainer.storage import Storage
from finetune_trainer.trackers import tracking
from finetune_trainer.trackers.tracker import Run

_log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    *,
    attempt: int,
    ca: Path,
    token: Path,
    stop: StopRequest,
) -> None:
    """Train what `config` says, together with the other processes of the gang.

    Raises a KnownEnd, or whatever went wrong.
    """
    gang = Gang(use_gpu=config.use_gpu, split_over=config.recipe.split_over)
    try:
        if gang.world_size > 1:
            stop.follow(gang)
        # Only from in here: nobody gets further while a request to stop would still end another one silently.
        gang.join()
        _take_part(config, gang, attempt=attempt, ca=ca, token=token, stop=stop)
    except BaseException:
        # Whatever it is: code that talks to the others (torch's of checkpoints) has its own errors for any end of it.
        if gang.world_size > 1 and stop.requested and not stop.deferred:
            gang.call_off()
        raise


def _take_part(
    config: RunConfig, gang: Gang, *, attempt: int, ca: Path, token: Path, stop: StopRequest
) -> None:
    storage = Storage.of(config)
    poster = Poster(config.report_url, ca=ca, token=token) if config.report_url and gang.is_first else None
    reporter = Reporter(storage, attempt, poster, silent=not gang.is_first)
    progress_bars.show_by(reporter.tick)
    base = Path(config.locations.model)
    model_config = load_config(base)

    reporter.stage(Stage.PREPARING)
    if gang.is_first:
        for parent in (storage.root, storage.checkpoints, storage.resume):
            commit.remove_incomplete(parent)
    length = context_length(base, config.hyperparameters)
    data = _prepared(config, gang, length, reporter)
    prepared = data.train

    method = method_of(config)
    planner = Planner(
        config,
        prepared,
        length,
        storage,
        reporter.tick,
        method.trainable_parameters(config, model_config),
    )
    planned = gang.on_first(lambda: lasting(planner.plan(), reporter.report.plan).model_dump_json())
    plan = ExactPlan.model_validate_json(planned)
    reporter.stage(
        Stage.LOADING,
        preparation=None,
        dataset=prepared.status,
        evaluation_data=data.evaluation_data,
        plan=plan,
    )
    trained = method.parametrize(config, model_config, gang, plan, reporter)
    checkpoints = Checkpoints(
        storage,
        gang,
        base,
        data=prepared.status.digest,
        effective_batch_size=plan.effective_batch_size,
        keep_last=config.checkpoints.keep_last,
        tick=reporter.tick,
        describe=Card(config, storage, reporter).write,
    )
    environment = Environment.of(gang)
    if gang.is_first:
        environment.keep(storage)
    run = Run.of(config, plan, storage, attempt) if gang.is_first else None
    with tracking(run) as trackers:
        Loop(
            config,
            attempt,
            plan,
            planner,
            data,
            length,
            gang,
            trained,
            checkpoints,
            reporter,
            trackers,
            stop,
        ).run()
    if gang.is_first:
        output = history.finished_output(storage)
        assert output is not None
        _log.info("the model is in %s", storage.output)
        if config.checkpoints.keep_best:
            best.prune(storage)
        reporter.stage(
            Stage.FINISHED,
            output=output,
            checkpoints=history.checkpoints(storage),
            evaluation=history.evaluation(storage),
            seconds_remaining=0,
        )
    reporter.close()
    gang.leave()


def _prepared(config: RunConfig, gang: Gang, length: int, reporter: Reporter) -> PreparedData:
    """The data that were prepared beforehand; where there are none, rank 0 prepares them."""

    def progress(done: Preparation) -> None:
        reporter.tick(preparation=done)

    def prepared() -> dict[str, str]:
        if not config.prepared:
            # No pod came before, which would have written it down.
            reporter.update(inputs=look_at(config, reporter.tick))
        return prepare_all(config, length, progress).digests

    digests = gang.on_first(prepared)
    found = open_all(config, digests)
    if found is None:
        raise FileNotFoundError(
            f"the prepared data in {config.locations.prepared} cannot be seen from this node"
        )
    return found
