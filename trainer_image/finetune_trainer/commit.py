"""Directories that exist wholly or not at all.

Files are written into a temporary directory next to their final place and flushed to disk; a manifest with their
sizes and checksums is written last; then one rename makes them visible. A directory without a valid manifest of
this run was never complete and is not looked at.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from finetune_api.model import ApiModel

MANIFEST = "manifest.json"
_TEMPORARY_SUFFIX = ".incomplete"


class FileRecord(ApiModel):
    """What a file was when it was complete."""

    bytes: int
    sha256: str


class Manifest(ApiModel):
    """What a complete directory holds."""

    uid: str
    """The run that wrote it."""
    time: datetime
    """When it was complete."""
    facts: dict[str, Any] = {}
    """What the writer wants to know again."""
    files: Annotated[dict[str, FileRecord], Field(min_length=1)]
    """All files but the manifest, by name."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(record.bytes for record in self.files.values())


def temporary(final: Path) -> Path:
    """The directory to write into before `final` appears."""
    return final.with_name(final.name + _TEMPORARY_SUFFIX)


def start(final: Path) -> Path:
    """An empty temporary directory for `final`; leftovers of an earlier trial are removed."""
    directory = temporary(final)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def remove_incomplete(parent: Path) -> None:
    """Give back the space of directories in `parent` whose writers never came to an end."""
    for directory in parent.glob(f"*{_TEMPORARY_SUFFIX}"):
        shutil.rmtree(directory)


def sealed(files: Iterable[Path], tick: Callable[[], None]) -> dict[str, FileRecord]:
    """Flush files to disk and describe them. Several processes may each seal their own."""
    records = {}
    for file in sorted(files):
        records[file.name] = _seal(file)
        tick()
    return records


def publish(final: Path, *, uid: str, files: Mapping[str, FileRecord], facts: Mapping[str, Any]) -> Manifest:
    """Write the manifest and make the directory visible under its final name, in place of what was there."""
    directory = temporary(final)
    manifest = Manifest(uid=uid, time=datetime.now(UTC), facts=dict(facts), files=dict(files))
    text = manifest.model_dump_json(by_alias=True, indent=1)
    with (directory / MANIFEST).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync(directory)
    # What lies there is incomplete, or of an attempt that ended before it could go on from this step.
    shutil.rmtree(final, ignore_errors=True)
    directory.rename(final)
    _sync(final.parent)
    return manifest


def read(directory: Path, *, uid: str) -> Manifest | None:
    """The manifest of a complete directory of this run: all files are there, with their sizes. None otherwise."""
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
        complete = manifest.uid == uid and all(
            (directory / name).stat().st_size == record.bytes for name, record in manifest.files.items()
        )
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return manifest if complete else None


def intact(directory: Path, files: Mapping[str, FileRecord], tick: Callable[[], None]) -> bool:
    """Whether files have the content that they had when they were complete."""
    for name, record in files.items():
        if _sha256(directory / name) != record.sha256:
            return False
        tick()
    return True


def _seal(file: Path) -> FileRecord:
    # safetensors makes files that only their owner can read; what serves the model runs as somebody else.
    file.chmod(0o644)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileRecord(bytes=file.stat().st_size, sha256=digest)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
