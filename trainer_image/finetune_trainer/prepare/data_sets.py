"""All data of a run: those that are trained on, and those that are evaluated on."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from finetune_api.evaluation import TRAIN
from finetune_api.report import Preparation
from finetune_api.runconfig import RunConfig
from finetune_api.status import EvaluationData
from finetune_trainer import commit
from finetune_trainer.prepare.arrow import Prepared
from finetune_trainer.prepare.pipeline import Progress, build, load
from finetune_trainer.prepare.task import Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """All data of a run, open for reading."""

    train: Prepared
    """What is trained on; without what is held back of it."""
    evaluated: dict[str, Prepared]
    """What is evaluated on, by name: the validation data first, then the sets in the order of the spec."""
    digests: dict[str, str]
    """By these, `open_all` finds it again."""

    @cached_property
    def evaluation_data(self) -> list[EvaluationData]:
        """What was found in the data that are evaluated on."""
        return [_told(name, prepared) for name, prepared in self.evaluated.items()]


def prepare_all(config: RunConfig, context_length: int, progress: Progress) -> PreparedData:
    """Prepare a run's data, but for those that an earlier attempt or another job has prepared.

    Samples longer than maxSeqLen (if it is not stated: than the model's context) are left out and counted.
    `progress` is called all along. Raises InvalidDataError with the rows that cannot be trained on.
    """
    # What an earlier attempt did not finish will not be finished.
    commit.remove_incomplete(Path(config.locations.prepared), config.uid)
    share = _Share(progress, [_bytes(config, name) for name in config.data_sets])
    found: dict[str, Prepared] = {}
    for name in config.data_sets:
        found[name] = _beforehand(config, name) or _prepare(config, name, context_length, share)
        share.next()
    return _assembled(config, found)


def open_all(config: RunConfig, digests: Mapping[str, str]) -> PreparedData | None:
    """Open what was prepared for a run, without reading the data again; None if any of it is gone."""
    found: dict[str, Prepared] = {}
    for name in config.data_sets:
        prepared = _open(config, digests[name]) if name in digests else None
        if prepared is None:
            return None
        found[name] = prepared
    return _assembled(config, found)


class _Share:
    """Progress with one data set after the other, as progress with all of them."""

    def __init__(self, progress: Progress, sizes: Iterable[int]) -> None:
        self._progress = progress
        self._sizes = list(sizes)
        self._current = 0
        self._rows_before = 0
        self._last = Preparation(rows=0, percent=0)

    def __call__(self, done: Preparation) -> None:
        before, size = sum(self._sizes[: self._current]), self._sizes[self._current]
        read = before + size * done.percent / 100
        percent = int(100 * read / max(1, sum(self._sizes)))
        self._last = Preparation(rows=self._rows_before + done.rows, percent=percent)
        self._progress(self._last)

    def next(self) -> None:
        """Go on to the next data set."""
        self._current += 1
        self._rows_before = self._last.rows


def _bytes(config: RunConfig, name: str) -> int:
    return sum(Path(file).stat().st_size for file in config.locations.data[name])


def _beforehand(config: RunConfig, name: str) -> Prepared | None:
    digest = config.prepared.get(name)
    if digest is None:
        return None
    found = _open(config, digest)
    if found is None:
        _log.warning(
            "the %s data that were prepared for this run are gone or damaged; they are prepared anew", name
        )
    return found


def _prepare(config: RunConfig, name: str, context_length: int, progress: Progress) -> Prepared:
    task = Task.of(config, name, context_length)
    digest = task.digest(lambda: progress(Preparation(rows=0, percent=0)))
    found = build(task, digest, _directory(config, digest), writer=config.uid, progress=progress)
    return _located(found, config)


def _open(config: RunConfig, digest: str) -> Prepared | None:
    found = load(_directory(config, digest))
    return _located(found, config) if found and found.status.digest == digest else None


def _assembled(config: RunConfig, found: Mapping[str, Prepared]) -> PreparedData:
    digests = {name: prepared.status.digest for name, prepared in found.items()}
    evaluated = {name: prepared for name, prepared in found.items() if name != TRAIN}
    return PreparedData(found[TRAIN], evaluated, digests)


def _told(name: str, prepared: Prepared) -> EvaluationData:
    status = prepared.status
    return EvaluationData(
        name=name,
        samples=status.samples,
        dropped=status.dropped,
        invalid=status.invalid,
        loss_tokens=status.loss_tokens,
        digest=status.digest,
    )


def _directory(config: RunConfig, digest: str) -> Path:
    return Path(config.locations.prepared) / digest[:16]


def _located(prepared: Prepared, config: RunConfig) -> Prepared:
    """With the path on the claim, which the directory itself does not know."""
    here = PurePosixPath(config.locations.prepared)
    on_claim = PurePosixPath(config.storage.path).parent / here.name
    path = str(on_claim / prepared.status.digest[:16])
    return Prepared(prepared.samples, prepared.status.model_copy(update={"path": path}))
