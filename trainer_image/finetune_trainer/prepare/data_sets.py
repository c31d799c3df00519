"""All data of a run: those that are trained on, and those that are evaluated on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from finetune_api.evaluation import TRAIN, VALIDATION
from finetune_api.report import Preparation
from finetune_api.runconfig import RunConfig
from finetune_api.status import EvaluationData
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare.arrow import Prepared
from finetune_trainer.prepare.contents import Contents, also_in
from finetune_trainer.prepare.kept import Kept
from finetune_trainer.prepare.pipeline import Progress, build
from finetune_trainer.prepare.task import Task, origin_of, split_of

_log = logging.getLogger(__name__)

_NOTHING_READ = Preparation(rows=0, percent=0)


@dataclass(frozen=True)
class PreparedData:
    """All data of a run, open for reading."""

    train: Prepared
    """What is trained on; without what is held back of it."""
    evaluated: dict[str, Prepared]
    """What is evaluated on, by name: the validation data first, then the sets in the order of the spec."""
    digests: dict[str, str]
    """By these, `open_all` finds it again."""
    contents: dict[str, Contents]
    """What samples, or documents, are equal by."""

    @cached_property
    def evaluation_data(self) -> list[EvaluationData]:
        """What was found in the data that are evaluated on."""
        return [self._told(name, prepared) for name, prepared in self.evaluated.items()]

    def _told(self, name: str, prepared: Prepared) -> EvaluationData:
        status = prepared.status
        return EvaluationData(
            name=name,
            samples=status.samples,
            dropped=status.dropped,
            invalid=status.invalid,
            loss_tokens=status.loss_tokens,
            in_training=also_in(self.contents[name], self.contents[TRAIN]),
            digest=self.digests.get(name),
        )


def prepare_all(config: RunConfig, context_length: int, progress: Progress) -> PreparedData:
    """Prepare a run's data, but for those that an earlier attempt or another job has prepared.

    Samples longer than maxSeqLen (if it is not stated: than the model's context) are left out and counted.
    `progress` is called all along. Raises InvalidDataError with the rows that cannot be trained or evaluated on.
    """
    # What an earlier attempt did not finish will not be finished.
    commit.remove_incomplete(Path(config.locations.prepared), config.uid)
    beforehand = {name: _beforehand(config, name, progress) for name in config.data_sets}
    tasks = {
        name: Task.of(config, name, context_length) for name, found in beforehand.items() if found is None
    }
    in_all = _InAll(progress, {name: task.bytes for name, task in tasks.items()})
    found: dict[str, Kept] = {}
    for name, kept in beforehand.items():
        found[name] = kept or _prepare(config, tasks[name], in_all.of(name))
    data = _assembled(config, found)
    _check(config, data)
    return data


def open_all(config: RunConfig, digests: Mapping[str, str]) -> PreparedData | None:
    """Open what was prepared for a run, without reading the data again; None if any of it is gone."""
    found: dict[str, Kept] = {}
    for name in config.data_sets:
        kept = _open(config, digests[name]) if name in digests else None
        if kept is None:
            return None
        found[name] = kept
    return _assembled(config, found)


class _InAll:
    """Progress with one data set after the other, told as progress with all of them."""

    def __init__(self, progress: Progress, sizes: Mapping[str, int]) -> None:
        self._progress, self._sizes = progress, sizes
        self._last = Preparation(rows=0, percent=0)
        self._bytes = 0

    def of(self, name: str) -> Progress:
        """Progress with the next data set."""
        before, rows, size = self._bytes, self._last.rows, self._sizes[name]
        total = sum(self._sizes.values())
        self._bytes += size

        def progress(done: Preparation) -> None:
            percent = (100 * before + size * done.percent) // max(1, total)
            self._last = Preparation(rows=rows + done.rows, percent=percent)
            self._progress(self._last)

        return progress


def _beforehand(config: RunConfig, name: str, progress: Progress) -> Kept | None:
    """What was prepared for this run, if it is what it was to the last bit: it is trained on as it is."""
    digest = config.prepared.get(name)
    if digest is None:
        return None
    directory = _directory(config, digest)
    manifest = commit.read(directory, uid=None)
    intact = manifest and commit.intact(directory, manifest.files, lambda: progress(_NOTHING_READ))
    found = _open(config, digest) if intact else None
    if found is None:
        _log.warning(
            "the %s data that were prepared for this run are gone or damaged; they are prepared anew", name
        )
    return found


def _prepare(config: RunConfig, task: Task, progress: Progress) -> Kept:
    identity = task.identity(lambda: progress(_NOTHING_READ))
    directory = _directory(config, identity.digest)
    return build(task, identity, directory, writer=config.uid, progress=progress)


def _open(config: RunConfig, digest: str) -> Kept | None:
    found = Kept.load(_directory(config, digest))
    return found if found and found.status.digest == digest else None


def _assembled(config: RunConfig, found: Mapping[str, Kept]) -> PreparedData:
    digests = {name: kept.status.digest for name, kept in found.items()}
    parts = dict(found)
    if (split := split_of(config)) is not None:
        trained_on, held_back = found[TRAIN].split(split, origin_of(config, TRAIN))
        parts = {TRAIN: trained_on, VALIDATION: held_back} | {
            name: kept for name, kept in found.items() if name != TRAIN
        }
    prepared = {name: _located(config, kept) for name, kept in parts.items()}
    contents = {name: kept.findings.contents for name, kept in parts.items()}
    return PreparedData(prepared.pop(TRAIN), prepared, digests, contents)


def _check(config: RunConfig, data: PreparedData) -> None:
    """Say what measures little. Raises InvalidDataError for what measures nothing."""
    things = "samples" if config.hyperparameters.pretraining is None else "documents"
    for found in data.evaluation_data:
        if not found.loss_tokens:
            raise InvalidDataError(f"{_origin(config, found.name)}: loss is taken on none of its tokens")
        if found.in_training:
            _log.warning(
                "%s: %d of %d %s are trained on, too: how a model does with what it has learnt by heart is no measure",
                _origin(config, found.name),
                found.in_training,
                len(data.contents[found.name]),
                things,
            )


def _origin(config: RunConfig, name: str) -> str:
    """What messages call data that are evaluated on."""
    return origin_of(config, name) if name in config.data_sets else "spec.dataset.validationSplit"


def _directory(config: RunConfig, digest: str) -> Path:
    return Path(config.locations.prepared) / digest[:16]


def _located(config: RunConfig, kept: Kept) -> Prepared:
    """With the path on the claim, which the directory itself does not know."""
    here = PurePosixPath(config.locations.prepared)
    on_claim = PurePosixPath(config.storage.path).parent / here.name
    path = str(on_claim / kept.status.digest[:16])
    return Prepared(kept.samples, kept.status.model_copy(update={"path": path}), kept.findings.questions)
