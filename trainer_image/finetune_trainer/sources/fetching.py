"""The inputs of a run, fetched and found out about: the first thing that a preparation does."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from finetune_api import names
from finetune_api.evaluation import MODEL
from finetune_api.inputs import Input
from finetune_api.report import Stage, Transfer
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks, commit, offline
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources import digests
from finetune_trainer.sources.hub import Repository
from finetune_trainer.sources.model_files import of_directory, of_model
from finetune_trainer.sources.objects import ChangedError, Objects
from finetune_trainer.sources.patterns import compiled
from finetune_trainer.sources.record import Record, Recorded, downloaded, located, origins
from finetune_trainer.sources.transfer import Progress, discard

_log = logging.getLogger(__name__)

# The log is for people: a line now and then.
_LOG_SECONDS = 10.0
# Objects that change all the time are none to train on.
_TRIALS = 3
_LISTED = 10


def fetch(config: RunConfig, reporter: Reporter) -> RunConfig:
    """Download what comes over the network, unless it is there; the RunConfig with the paths of it.

    Raises a TrainerError that names the field of the spec, OSError of the storage.
    """
    wanted = downloaded(config)
    if not wanted:
        return config
    reporter.stage(Stage.DOWNLOADING)
    fetching = _Fetching(config, _Shown(reporter))
    with offline.online():
        for name in origins(config):
            if name in wanted:
                fetching.fetch(name)
    reporter.update(transfer=None)
    return located(config)


def look_at(config: RunConfig, tick: Callable[[], None]) -> list[Input]:
    """Write down what the inputs of a run are that are not downloaded; all inputs, as Reports tell them.

    Raises OSError where they cannot be read.
    """
    record = Record.of(config)
    for name in origins(config).keys() - downloaded(config):
        record = record.replaced(digests.looked_at(config, name, tick))
    record.keep(config)
    return record.told(config)


class _Fetching:
    """The downloads of one run."""

    def __init__(self, config: RunConfig, show: Callable[[Transfer], None]) -> None:
        self._config = config
        self._show = show
        self._downloads = Path(config.locations.downloads)
        self._record = Record.of(config)

    def fetch(self, name: str) -> None:
        """Have an input there, and written down."""
        origin = origins(self._config)[name]
        one = self._record.find(name, origin) or Recorded(name=name, origin=origin)
        if one.is_complete and self._size(one) == one.bytes:
            _log.info("%s is there", origin)
            return
        credentials = Path(names.credentials_dir(name))
        model = self._config.model.hugging_face
        if name == MODEL:
            assert model is not None
            where = f"spec.model: {self._config.model}"
            self._model(one, Repository(model, "model", where, self._downloads, credentials))
            return
        data = self._config.data_sets[name]
        where = f"{data.field}: {data.source}"
        if data.source.hugging_face is not None:
            repository = Repository(data.source.hugging_face, "dataset", where, self._downloads, credentials)
            self._hub_data(one, repository, data.source.hugging_face.path)
        else:
            assert data.source.object_store is not None
            self._objects(one, Objects(data.source.object_store, where, self._downloads, credentials))

    def _model(self, one: Recorded, repository: Repository) -> None:
        def chosen(files: Iterable[str]) -> list[str]:
            found = {name for name in files if "/" not in name}
            checks.check_listing(found, repository.origin, weights=True)
            return of_model(files)

        one, contents = self._from_hub(one, repository, chosen)
        assert one.revision is not None
        self._complete(one, [repository.snapshot(one.revision)], digests.of_files(contents))

    def _hub_data(self, one: Recorded, repository: Repository, path: str) -> None:
        pattern = str(PurePosixPath(path))

        def chosen(files: Iterable[str]) -> list[str]:
            if found := sorted(filter(compiled(pattern).fullmatch, files)):
                return found
            raise InvalidConfigurationError(f"{repository.origin}: it has no such file; {_some(files)}")

        one, contents = self._from_hub(one, repository, chosen)
        assert one.revision is not None
        snapshot = repository.snapshot(one.revision)
        digest = digests.of_files(contents)
        if len(contents) == 1:
            digest = digests.of_file(*contents.values())
        self._complete(one, [f"{snapshot}/{name}" for name in contents], digest)

    def _from_hub(
        self, one: Recorded, repository: Repository, chosen: Callable[[Iterable[str]], list[str]]
    ) -> tuple[Recorded, dict[str, str]]:
        """Have files of a repository there; what is known of it, and the sha256 of every file."""
        progress = Progress(repository.source.repo, 0, self._show)
        if offline.is_wanted():
            one = self._keep(one.model_copy(update={"revision": repository.cached(one.revision)}))
            assert one.revision is not None
            snapshot = self._downloads / repository.snapshot(one.revision)
            there = [file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()]
            return one, {name: commit.sha256(snapshot / name, progress.tick) for name in chosen(there)}
        # Written down first: a branch may move while files of its old commit are on their way.
        if one.revision is None:
            one = self._keep(one.model_copy(update={"revision": repository.resolve(progress)}))
        assert one.revision is not None
        _log.info("%s is commit %s", one.origin, one.revision)
        listed = repository.files(one.revision, progress)
        files = [listed[name] for name in chosen(listed)]
        progress = Progress(repository.source.repo, sum(file.size for file in files), self._show)
        repository.fetch(files, one.revision, self._config.uid, progress)
        snapshot = self._downloads / repository.snapshot(one.revision)
        return one, {
            file.path: file.lfs.sha256 if file.lfs else commit.sha256(snapshot / file.path, lambda: None)
            for file in files
        }

    def _objects(self, one: Recorded, objects: Objects) -> None:
        for _ in range(_TRIALS):
            if not one.objects:
                found = objects.find(Progress(objects.store.uri, 0, self._show))
                one = self._keep(one.model_copy(update={"objects": found}))
            progress = Progress(objects.store.uri, sum(each.bytes for each in one.objects), self._show)
            try:
                objects.fetch(one.objects, self._config.uid, progress)
            except ChangedError as error:
                # What came may be of several versions, and would pass for the old one if that were restored.
                for each in one.objects:
                    discard(self._downloads / each.file, self._config.uid)
                if one.is_complete:
                    raise InvalidConfigurationError(
                        f"{objects.origin}: {error} changed since this run began, and what was downloaded then is no "
                        "longer there: restore it, or train anew with another spec.storage.path"
                    ) from None
                _log.warning("%s: %s changed meanwhile; once more from the beginning", objects.origin, error)
                one = one.model_copy(update={"objects": []})
                continue
            files = [each.file for each in one.objects]
            there = {each.path: self._downloads / each.file for each in one.objects}
            self._complete(one, files, digests.of_data(there, progress.tick))
            return
        raise InvalidConfigurationError(
            f"{objects.origin}: it was written to while it was read, {_TRIALS} times in a row: name objects that stay"
        )

    def _keep(self, one: Recorded) -> Recorded:
        self._record = self._record.replaced(one)
        self._record.keep(self._config)
        return one

    def _complete(self, one: Recorded, files: list[str], digest: str) -> None:
        one = one.model_copy(update={"files": files, "digest": digest})
        size = self._size(one)
        self._keep(one.model_copy(update={"bytes": size}))
        _log.info("%s is there: %d bytes, %s", one.origin, size, digest)

    def _size(self, one: Recorded) -> int:
        """Bytes of its files, as far as they are there."""
        size = 0
        for path in (self._downloads / file for file in one.files):
            files = [path / name for name in of_directory(path)] if path.is_dir() else [path]
            size += sum(file.stat().st_size for file in files if file.exists())
        return size


class _Shown:
    """How far downloads have come, in the Report, and in the log now and then."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._last = time.monotonic()

    def __call__(self, done: Transfer) -> None:
        """Take note of it."""
        if not done.total_bytes:
            # It is being asked what there is.
            self._reporter.tick()
            return
        self._reporter.tick(transfer=done)
        now = time.monotonic()
        if now - self._last >= _LOG_SECONDS:
            self._last = now
            _log.info("%s: %d of %d bytes are there", done.of, done.bytes, done.total_bytes)


def _some(files: Iterable[str]) -> str:
    found = sorted(files)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"it has {', '.join(found[:_LISTED])}{more}"
