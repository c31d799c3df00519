"""The weights of the lowest validation loss among the checkpoints: what rank 0 does with files of them."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from finetune_api.status import newest_state
from finetune_trainer import commit
from finetune_trainer.checkpoints.shelf import remove
from finetune_trainer.commit import Manifest
from finetune_trainer.judging.retention import superseded
from finetune_trainer.reports import history
from finetune_trainer.storage import Storage

if TYPE_CHECKING:
    # With torch, which the first process of a container does without.
    from finetune_trainer.results import Describe

# What the manifest of weights says that nothing but their being the best has kept.
AS_BEST: Mapping[str, Any] = MappingProxyType({"keptAsBest": True})


def facts_of(stopped_early: str | None) -> dict[str, Any]:
    """What the manifest of a result says of a run that ended before its last step."""
    return {} if stopped_early is None else {"stoppedEarly": stopped_early}


def prune(storage: Storage) -> None:
    """Remove weights that only were the best once, now that the best of all are complete, here or as the result."""
    kept = {
        manifest.facts["step"]: path
        for path in commit.visible(storage.checkpoints)
        if (manifest := commit.of_run(path, uid=storage.uid)) and AS_BEST.items() <= manifest.facts.items()
    }
    known = history.evaluations(storage)
    if history.finished_output(storage):
        # No attempt will go on from any state.
        newest = max((one.step for one in known), default=0)
    else:
        newest = newest_state(history.checkpoints(storage))
    for step in superseded(kept, known, newest):
        remove(kept[step])


def deliver(
    storage: Storage, step: int, facts: Mapping[str, Any], describe: "Describe", tick: Callable[[], None]
) -> Manifest | None:
    """Make the run's result of the weights kept after a step; None, with nothing changed, where they are not intact."""
    source = storage.weights_after(step)
    manifest = commit.read(source, uid=storage.uid)
    if manifest is None:
        return None
    with commit.writing(storage.output) as directory:
        for name in manifest.files:
            _bring(source / name, directory / name)
        files = commit.sealed(directory.iterdir(), tick)
        if files != manifest.files:
            shutil.rmtree(directory)
            return None
        describe(directory, manifest.facts["format"], step)
        # It may have replaced small files, too.
        files |= commit.sealed((file for file in directory.iterdir() if not _is_large(file)), tick)
        kept = {name: fact for name, fact in manifest.facts.items() if name not in AS_BEST}
        return commit.publish(storage.output, uid=storage.uid, files=files, facts={**kept, **facts})


def _bring(source: Path, target: Path) -> None:
    """Have a file in two places. Large ones share their content where the volume can: nobody writes into them."""
    if _is_large(source):
        try:
            os.link(source, target)
            return
        except OSError:
            # Volumes without links (CIFS, some of FUSE) say so in many ways; what is wrong otherwise, copying tells.
            pass
    shutil.copyfile(source, target)


def _is_large(file: Path) -> bool:
    return file.suffix == ".safetensors"
