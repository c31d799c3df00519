"""A result on its way to an object store: file by file, each with the digest of its content in its metadata.

What is there already with the same size and digest is not sent again, so an upload that was cut goes on with the file
that it was at. The manifest is there only while all files are: it goes first where another result is replaced, and
comes last.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from finetune_api.sources import ObjectStore
from finetune_trainer import commit
from finetune_trainer.commit import FileRecord, Manifest
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.sources import object_store
from finetune_trainer.sources.store_errors import AbsentError, explained, may_pass
from finetune_trainer.sources.transfer import Patience, Progress
from finetune_trainer.uploads.contents import Content, Contents, earlier, text

_T = TypeVar("_T")

# What an earlier manifest is called while its result is being replaced.
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
        before = self._manifest(commit.MANIFEST) or self._manifest(_REPLACED)
        if before is not None and before.files != result.manifest.files:
            self._write(_REPLACED, before)
            self._remove(commit.MANIFEST)
        for content in result.files:
            if self._is_there(content.name, content.record):
                self._progress.add(content.record.bytes)
            else:
                content.verify(self._progress.tick)
                self._send(content)
        for name, record in result.stale(before).items():
            # What somebody has put in its place since is not ours.
            if self._is_there(name, record):
                self._remove(name)
        self._write(commit.MANIFEST, result.manifest)
        self._remove(_REPLACED)

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

    def _manifest(self, name: str) -> Manifest | None:
        try:
            found: bytes = self._call(lambda: self._filesystem.cat_file(self._path(name)))
        except AbsentError:
            return None
        return earlier(found)

    def _write(self, name: str, manifest: Manifest) -> None:
        self._have(lambda: self._filesystem.pipe_file(self._path(name), text(manifest).encode()))

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
