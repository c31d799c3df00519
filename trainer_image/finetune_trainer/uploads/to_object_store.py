"""A result on its way to an object store: file by file, each with the digest of its content in its metadata.

What is there already with the same size and digest is not sent again, so an upload that was cut goes on with the file
that it was at. The manifest is there only while all files are: it goes before another result is replaced, and comes
last. Meanwhile another file tells what may be there, so that nothing of an upload that is cut for good stays beside a
later result.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from finetune_api.sources import ObjectStore
from finetune_trainer import commit
from finetune_trainer.commit import FileRecord
from finetune_trainer.ends.errors import AccessDeniedError, InvalidConfigurationError
from finetune_trainer.sources import object_store
from finetune_trainer.sources.store_errors import AbsentError, explained, may_pass
from finetune_trainer.sources.transfer import Patience, Progress
from finetune_trainer.uploads.contents import Content, Contents, Known, earlier, known, text

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

# What is there, or may be, of results that were replaced or cut: as long as there is no manifest.
_REPLACED = "manifest.replaced.json"
_DIGEST = "sha256"
# A part of a large file, of which some are in memory at the same time. S3 takes 10,000 of them at most, and s3fs makes
# them larger where that is not enough.
_PART_BYTES = 32 << 20
_PARTS_AT_ONCE = 4


def upload(store: ObjectStore, origin: str, result: Contents, credentials: Path, progress: Progress) -> None:
    """Upload a result; see object_store.filesystem for `credentials`. Raises a TrainerError."""
    _Upload(store, origin, credentials, progress).run(result)


class _Upload:
    def __init__(self, store: ObjectStore, origin: str, credentials: Path, progress: Progress) -> None:
        self._store = store
        self._origin = origin
        self._progress = progress
        self._filesystem: AbstractFileSystem
        self._filesystem, path = object_store.filesystem(store, credentials)
        self._base = path.rstrip("/")

    def run(self, result: Contents) -> None:
        """Upload all of it."""
        missing = self._missing(result)
        # A damaged result must not take down a good one.
        for content in missing:
            content.verify(self._progress.tick)
        left = self._prepare(result)
        for content in missing:
            self._send(content)
        for name, records in result.stale(left):
            # What somebody has put in its place since is not ours.
            if any(self._is_there(name, record) for record in records):
                self._remove(name)
        self._write(commit.MANIFEST, text(result.manifest))
        try:
            self._remove(_REPLACED)
        except AccessDeniedError as error:
            # Some buckets let nothing be deleted. It only tells the next upload more than there is.
            _log.warning("%s stays where it is: %s", _REPLACED, error)

    def _missing(self, result: Contents) -> list[Content]:
        missing = []
        for content in result.files:
            if self._is_there(content.name, content.record):
                self._progress.add(content.record.bytes)
            else:
                missing.append(content)
        return missing

    def _prepare(self, result: Contents) -> Known:
        """Take down another result's manifest; what may be there, of this result too, should it be cut."""
        published = earlier(self._content(commit.MANIFEST))
        left = known(self._content(_REPLACED))
        if published is not None and published.files == result.manifest.files:
            return left
        both = left.and_of(published).and_of(result.manifest)
        if both != left:
            self._write(_REPLACED, both.model_dump_json(by_alias=True, indent=1))
        if published is not None:
            self._remove(commit.MANIFEST)
        return both

    def _send(self, content: Content) -> None:
        shown = _Shown(self._progress, self._patience(content.name))

        def put() -> None:
            shown.begin()
            digest = content.record.sha256
            target = self._path(content.name)
            self._filesystem.put_file(str(content.file), target, callback=shown, **self._options(digest))
            if self._store.protocol == "az":
                # adlfs has metadata of its own there, and takes no others along.
                self._filesystem.setxattrs(target, is_directory="false", **{_DIGEST: digest})

        self._have(put, shown.patience)

    def _options(self, digest: str) -> dict[str, Any]:
        metadata = {_DIGEST: digest}
        if self._store.protocol == "s3":
            return {"Metadata": metadata, "chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        if self._store.protocol == "gs":
            return {"metadata": metadata, "chunksize": _PART_BYTES}
        return {"max_concurrency": _PARTS_AT_ONCE}

    def _is_there(self, name: str, record: FileRecord) -> bool:
        """Whether the target has this very content."""

        def look() -> bool:
            info = self._filesystem.info(self._path(name))
            if info["type"] != "file" or info["size"] != record.bytes:
                return False
            if self._store.protocol == "s3":
                metadata = self._filesystem.metadata(self._path(name))
            else:
                metadata = info.get("metadata") or {}
            return bool(metadata.get(_DIGEST) == record.sha256)

        try:
            return self._call(look)
        except AbsentError:
            return False

    def _content(self, name: str) -> bytes:
        """What a small file has; nothing where there is none."""
        try:
            found: bytes = self._call(lambda: self._filesystem.cat_file(self._path(name)))
        except AbsentError:
            return b""
        return found

    def _write(self, name: str, content: str) -> None:
        self._have(lambda: self._filesystem.pipe_file(self._path(name), content.encode()))

    def _remove(self, name: str) -> None:
        try:
            self._call(lambda: self._filesystem.rm_file(self._path(name)))
        except AbsentError:
            return

    def _have(self, request: Callable[[], object], patience: Patience | None = None) -> None:
        """Write something, for which nothing but the bucket has to be there. Raises a TrainerError."""
        try:
            self._call(request, patience)
        except AbsentError as error:
            raise InvalidConfigurationError(
                f"{self._origin}: there is no such bucket, and none is made: create it, or name another ({error})"
            ) from error

    def _call(self, request: Callable[[], _T], patience: Patience | None = None) -> _T:
        """What the store answers. Raises AbsentError, or a TrainerError."""

        def explicable() -> _T:
            with explained(self._store, self._origin):
                return request()

        return (patience or self._patience(self._store.uri)).call(explicable)

    def _patience(self, what: str) -> Patience:
        return Patience(f"{self._origin}: {what}", may_pass, self._progress)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"


class _Shown(Callback):  # type: ignore[misc]
    """Takes from fsspec how much of a file is sent."""

    def __init__(self, progress: Progress, patience: Patience) -> None:
        super().__init__()
        self.patience = patience
        self._progress = progress
        self._sent = 0

    def begin(self) -> None:
        """The file is sent from its beginning on, be it once more."""
        self._progress.add(-self._sent)
        self._sent = 0

    def relative_update(self, inc: int = 1) -> None:
        """So many bytes more are sent."""
        self._sent += inc
        self._progress.add(inc)
        self.patience.reset()

    def absolute_update(self, value: int) -> None:
        """So many bytes are sent in all."""
        self.relative_update(value - self._sent)
