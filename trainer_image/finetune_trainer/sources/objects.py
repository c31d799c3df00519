"""Objects of a store: what an address stands for, and their content."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem

from finetune_api.sources import ObjectStore
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.sources import object_store
from finetune_trainer.sources.patterns import compiled
from finetune_trainer.sources.record import StoredObject
from finetune_trainer.sources.store_errors import AbsentError, explained, may_pass
from finetune_trainer.sources.transfer import Patience, Progress, Wanted, fetch_all

# What is asked for at a time. A cut costs no more than that.
_BLOCK = 8 << 20
_DIRECTORY = "objects"
# What stores call that which changes with the content of an object, the best first.
_VERSIONS = ("generation", "ETag", "etag")


class ChangedError(Exception):
    """An object is no longer what it was when it was looked at."""


@dataclass(frozen=True)
class Objects:
    """What an address stands for, and where it goes."""

    store: ObjectStore
    origin: str
    """What messages call it."""
    downloads: Path
    """Directory of all downloads."""
    credentials: Path
    """See object_store.filesystem."""

    def find(self, progress: Progress) -> list[StoredObject]:
        """What is there now, in the order of the names. Raises a TrainerError, also if there is nothing."""
        try:
            found = Patience(self.origin, may_pass, progress).call(self._find)
        except AbsentError:
            found = []
        if not found:
            raise InvalidConfigurationError(
                f"{self.origin}: there is nothing of this name; look for the bucket, the store and the spelling"
            )
        return [self._stored(info) for info in found]

    def fetch(self, objects: Sequence[StoredObject], writer: str, progress: Progress) -> None:
        """Fetch them as they were found. Raises ChangedError if they are so no longer, a TrainerError, OSError of the
        volume."""
        wanted = [
            Wanted(
                final=(final := self.downloads / one.file),
                size=one.bytes,
                read=partial(self._read, one),
                lock=final.with_name(f"{final.name}.lock"),
                what=f"{self.origin}: {one.path}",
                # Before it is read, and after: in between it cannot have been another.
                confirm=partial(self._unchanged, one),
            )
            for one in objects
        ]
        try:
            fetch_all(wanted, writer, may_pass, progress)
        except AbsentError as error:
            raise ChangedError from error

    def _find(self) -> list[dict[str, Any]]:
        with explained(self.store, self.origin):
            path = self._path
            if "*" not in path:
                info = self._filesystem.info(path)
                return [info] if info["type"] == "file" else []
            # The listing of a directory fails where access is denied; the glob of the library would find nothing.
            directory = path[: path.index("*")].rpartition("/")[0]
            listed = self._filesystem.find(directory, detail=True)
        pattern = compiled(path)
        return [info for name, info in sorted(listed.items()) if pattern.fullmatch(name)]

    def _stored(self, info: Mapping[str, Any]) -> StoredObject:
        version = _version(info)
        path, size = str(info["name"]), int(info["size"])
        where = object_store.endpoint(self.store, self.credentials)
        key = "\n".join([self.store.protocol, where, path, version, str(size)])
        directory = hashlib.sha256(key.encode()).hexdigest()[:32]
        # The end of its name tells how to read it; the rest is for people.
        name = PurePosixPath(path)
        short = name.name if len(name.name.encode()) <= 128 else f"object{name.suffix}"
        return StoredObject(path=path, version=version, bytes=size, file=f"{_DIRECTORY}/{directory}/{short}")

    def _read(self, one: StoredObject, start: int) -> Iterator[bytes]:
        self._unchanged(one)
        while start < one.bytes:
            with explained(self.store, self.origin):
                block = self._filesystem.cat_file(one.path, start=start, end=min(start + _BLOCK, one.bytes))
            if not block:
                return
            start += len(block)
            yield block

    def _unchanged(self, one: StoredObject) -> None:
        with explained(self.store, self.origin):
            info = self._filesystem.info(one.path)
        if (_version(info), int(info["size"])) != (one.version, one.bytes):
            raise ChangedError(one.path)

    @cached_property
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        return object_store.filesystem(self.store, self.credentials)

    @property
    def _filesystem(self) -> AbstractFileSystem:
        return self._opened[0]

    @property
    def _path(self) -> str:
        return self._opened[1]


def _version(info: Mapping[str, Any]) -> str:
    told = next((info[name] for name in _VERSIONS if info.get(name)), None)
    return str(told or info.get("LastModified") or info.get("last_modified") or "").strip('"')
