"""The merging of a run's adapter into its base model, as the first process of a pod without GPUs, after the gang.

It may be done again at any time: the adapter is read only, and what is complete stays.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import alone, checks, commit
from finetune_trainer.adapters.identity import fingerprint
from finetune_trainer.alone import Words, Work
from finetune_trainer.commit import Manifest
from finetune_trainer.ends.errors import InvalidConfigurationError, described
from finetune_trainer.ends.signals import Stop
from finetune_trainer.reports import history
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

WORDS = Words(name="the merging", product="the merged model", undone="the adapter was merged")

_RESTORE = "Put it back, or train anew with another spec.storage.path"


def merge_run(file: Path, stop: Stop) -> int:
    """Merge the adapter of the run whose RunConfig is `file`; returns an exit code of finetune_api.failure."""
    return alone.run(Work(names.MERGING, WORDS, _check, _merge), file, stop)


def _check(config: RunConfig) -> None:
    checks.check_base(config, weights=True)
    checks.check_storage(config, node=0)


def _merge(config: RunConfig, storage: Storage, reporter: Reporter) -> None:
    adapter = _adapter(config, storage)
    # An earlier trial may have been killed, right after its model was complete too.
    commit.remove_incomplete(storage.root)
    if history.output_of(storage, adapter).merged is None:
        reporter.stage(Stage.MERGING)
        _make(config, storage, adapter, reporter)
    _log.info("the merged model is in %s", storage.merged)
    reporter.stage(Stage.FINISHED, output=history.output_of(storage, adapter))


def _adapter(config: RunConfig, storage: Storage) -> Manifest:
    """The run's adapter, complete. Raises InvalidConfigurationError if there is none."""
    manifest = commit.read(storage.output, uid=storage.uid)
    if manifest is None or manifest.facts["format"] != "adapter":
        where = described(config.storage, storage.root)
        raise InvalidConfigurationError(
            f"spec.storage: the directory {where} has no complete adapter in {names.OUTPUT_DIR}. {_RESTORE}"
        )
    return manifest


def _make(config: RunConfig, storage: Storage, adapter: Manifest, reporter: Reporter) -> None:
    """Write the merged model, in the place of one of another adapter."""
    # It takes torch, which a wrong path need not wait for.
    from finetune_trainer.card.writer import Card

    base = Path(config.locations.model)
    if not commit.intact(storage.output, adapter.files, reporter.tick):
        raise InvalidConfigurationError(
            f"spec.storage: the adapter in {names.OUTPUT_DIR} of {described(config.storage, storage.root)} is "
            f"damaged: a file has not the content that it had when it was complete. {_RESTORE}"
        )
    if fingerprint(base) != adapter.facts["base"]:
        raise InvalidConfigurationError(
            "spec.model: the base model changed since the adapter was trained beside it: restore the model"
        )
    merge_into(
        base,
        storage.output,
        storage.merged,
        uid=storage.uid,
        facts=history.merged_facts(adapter),
        tick=reporter.tick,
        describe=partial(Card(config, storage, reporter).write, kind="merged", step=adapter.facts["step"]),
    )


def merge_into(
    base: Path,
    adapter: Path,
    final: Path,
    *,
    uid: str | None,
    facts: Mapping[str, Any],
    tick: Callable[[], None],
    describe: Callable[[Path], None] = lambda directory: None,
    writer: str = "",
) -> Manifest:
    """Make the directory `final`, wholly or not at all; see adapters.merge for what it holds, commit for the rest.

    What else is to lie in it `describe` writes.
    """
    # Loading models takes libraries that a wrong path need not wait for.
    from finetune_trainer import progress_bars
    from finetune_trainer.adapters.merge import merge
    from finetune_trainer.ends.out_of_memory import ran_out_of_memory
    from finetune_trainer.ends.verdict import relayed

    progress_bars.show_by(tick)
    try:
        with commit.writing(final, writer) as directory:
            merge(base, adapter, directory, tick)
            describe(directory)
            files = commit.sealed(directory.iterdir(), tick)
            return commit.publish(final, uid=uid, files=files, facts=facts, writer=writer)
    except (RuntimeError, MemoryError) as error:
        if ran_out_of_memory(error):
            message = f"there is too little memory to merge the adapter: {error}"
            raise relayed(ExitCode.OUT_OF_MEMORY, message) from error
        raise
