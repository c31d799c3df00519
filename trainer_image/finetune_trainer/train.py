"""One process's whole course: prepare, plan, load, train, and leave a model behind."""

import logging
from collections.abc import Callable
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from finetune_api.report import Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import commit, history
from finetune_trainer.checkpoint import Checkpoints
from finetune_trainer.distributed import Gang
from finetune_trainer.loop import Loop
from finetune_trainer.methods import sft
from finetune_trainer.model import load_config, stored_dtype
from finetune_trainer.planning import ExactPlan, gather, known_context_length, make_plan
from finetune_trainer.post import Poster
from finetune_trainer.prepare.pipeline import load, prepare
from finetune_trainer.reporter import Reporter
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    *,
    attempt: int,
    ca: Path,
    token: Path,
    begin: Callable[[], None],
    stop_requested: Callable[[], bool],
) -> None:
    """Train what `config` says, together with the other processes of the gang.

    `begin` is called when there begins to be something to save. Raises a TrainerError, or whatever went wrong.
    """
    # Progress bars are made for terminals; the Report says more.
    disable_progress_bar()
    storage = Storage.of(config)
    gang = Gang(use_gpu=config.use_gpu)
    poster = Poster(config.report_url, ca=ca, token=token) if config.report_url and gang.is_first else None
    reporter = Reporter(storage, attempt, poster, silent=not gang.is_first)
    base = Path(config.locations.model)
    model_config = load_config(base)
    found = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    length = known_context_length(config, found)

    reporter.stage(Stage.PREPARING)
    if gang.is_first:
        for parent in (storage.root, storage.data, storage.checkpoints, storage.resume):
            commit.remove_incomplete(parent)
    directory = gang.on_first(lambda: str(prepare(config, storage, length, reporter.tick)))
    prepared = load(Path(directory), storage)

    def planned() -> str:
        facts = gather(config, prepared, length, reporter.tick)
        return make_plan(facts, sft.trainable_parameters(model_config)).model_dump_json()

    plan = ExactPlan.model_validate_json(gang.on_first(planned))
    reporter.stage(Stage.LOADING, dataset=prepared.status, plan=plan)
    checkpoints = Checkpoints(
        storage, gang, base, stored_dtype(base, model_config), prepared.status.digest, reporter.tick
    )
    model = sft.build(base, model_config, gang)
    begin()
    Loop(config, plan, prepared.samples, gang, model, checkpoints, reporter, stop_requested).run()
    if gang.is_first:
        output = history.finished_output(storage)
        assert output is not None
        _log.info("the model is in %s", storage.output)
        reporter.stage(
            Stage.FINISHED, output=output, checkpoints=history.checkpoints(storage), seconds_remaining=0
        )
    reporter.close()
    gang.leave()
