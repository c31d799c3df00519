"""Directories that exist wholly or not at all.

Files are written into a temporary directory next to their final place and flushed to disk; a manifest with their
sizes and checksums is written last; then one rename makes them visible. A directory without a valid manifest was
never complete and is not looked at; nor is one with the manifest of another run, unless it is shared by all.
"""

import errno
import glob
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from finetune_api import names
from finetune_api.model import ApiModel

_log = logging.getLogger(__name__)

MANIFEST = names.COMPLETE_FILE
_TEMPORARY_SUFFIX = ".incomplete"
# The writer of directories that are on their way out.
_REMOVED = "removed"
# Long enough that signs of life are seldom in the way, short enough that they come often.
_HASHED_AT_ONCE = 16 << 20


class FileRecord(ApiModel):
    """What a file was when it was complete."""

    bytes: int
    sha256: str


class Manifest(ApiModel):
    """What a complete directory holds."""

    uid: str | None = None
    """The run whose it is; None where it is nobody's own."""
    time: datetime
    """When it was complete."""
    facts: dict[str, Any] = {}
    """What the writer wants to know again."""
    files: Annotated[dict[str, FileRecord], Field(min_length=1)]
    """All files but the manifest, by name."""
    sha256: str | None = None
    """Of all the above: training goes on from `facts`, too. Absent where an earlier version wrote the manifest."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(record.bytes for record in self.files.values())

    def sealed(self) -> "Manifest":
        """This manifest with the checksum of what it says."""
        return self.model_copy(update={"sha256": self._digest()})

    @property
    def is_sound(self) -> bool:
        """Whether it says what it said when it was written."""
        return self.sha256 is None or self.sha256 == self._digest()

    def _digest(self) -> str:
        text = self.model_dump_json(by_alias=True, exclude={"sha256"})
        return hashlib.sha256(text.encode()).hexdigest()


def temporary(final: Path, writer: str = "") -> Path:
    """The directory to write into before `final` appears. Writers of different names do not meet."""
    return final.with_name(f"{final.name}{writer and '.' + writer}{_TEMPORARY_SUFFIX}")


def start(final: Path, writer: str = "") -> Path:
    """An empty temporary directory for `final`; leftovers of an earlier trial of this writer are removed."""
    directory = temporary(final, writer)
    shutil.rmtree(directory, ignore_errors=True)
    if not directory.parent.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        flush(directory.parent.parent)
    directory.mkdir()
    return directory


@contextmanager
def writing(final: Path, writer: str = "") -> Iterator[Path]:
    """`start`, for one process alone: what it leaves when it fails is removed."""
    directory = start(final, writer)
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def remove_incomplete(parent: Path, writer: str = "") -> None:
    """Give back the space of directories in `parent` that this writer never finished, or never finished to remove.

    The writer without a name answers for all.
    """
    for directory in parent.glob(temporary(Path("*"), glob.escape(writer)).name):
        shutil.rmtree(directory)


def remove(directory: Path) -> None:
    """Remove a complete directory. It is gone at once: nobody finds a part of it, whenever this process ends."""
    shutil.rmtree(_set_aside(directory))


def sealed(files: Iterable[Path], tick: Callable[[], None]) -> dict[str, FileRecord]:
    """Flush files to disk and describe them. Several processes may each seal their own."""
    return {file.name: _seal(file, tick) for file in sorted(files)}


def publish(
    final: Path,
    *,
    uid: str | None,
    files: Mapping[str, FileRecord],
    facts: Mapping[str, Any],
    writer: str = "",
) -> Manifest:
    """Write the manifest and make the directory visible under its final name, in place of what was there.

    What it is then is read back from the volume, so what it replaces may go. Raises OSError where it is not whole.
    """
    directory = temporary(final, writer)
    _write_manifest(
        directory, Manifest(uid=uid, time=datetime.now(UTC), facts=dict(facts), files=dict(files))
    )
    # What lies there is damaged, or of an attempt that ended before it could go on from this step.
    replaced = _set_aside(final) if final.exists() else None
    directory.rename(final)
    flush(final.parent)
    if replaced:
        shutil.rmtree(replaced)
    manifest = read(final, uid=uid)
    if manifest is None:
        raise OSError(errno.EIO, "what was written there is not there", str(final))
    return manifest


def publish_shared(final: Path, *, files: Mapping[str, FileRecord], writer: str) -> None:
    """Make a directory visible that is not tied to a run, unless another writer of the same was faster.

    Theirs stays: somebody may be reading it.
    """
    directory = temporary(final, writer)
    _write_manifest(directory, Manifest(time=datetime.now(UTC), files=dict(files)))
    while True:
        try:
            directory.rename(final)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if read(final, uid=None):
            shutil.rmtree(directory)
            break
        remove_shared(final, None, writer=writer)
    flush(final.parent)


def remove_shared(directory: Path, manifest: Manifest | None, *, writer: str) -> None:
    """Remove a directory that is not tied to a run and was found damaged, when `read` gave this manifest.

    If another writer has replaced it since, it stays: somebody may be reading it.
    """
    if read(directory, uid=None) != manifest:
        return
    try:
        aside = _set_aside(directory, writer)
    except FileNotFoundError:
        # Another writer found the same.
        return
    shutil.rmtree(aside)


def read(directory: Path, *, uid: str | None) -> Manifest | None:
    """The manifest of a complete directory of this run: all files are there, with their sizes. None otherwise.

    `uid` None asks for a directory that is no run's own.
    """
    manifest = of_run(directory, uid=uid)
    try:
        complete = manifest is not None and all(
            (directory / name).stat().st_size == record.bytes for name, record in manifest.files.items()
        )
    except FileNotFoundError:
        return None
    return manifest if complete else None


def of_run(directory: Path, *, uid: str | None) -> Manifest | None:
    """The manifest of a directory that this run made complete once; what it names may be damaged since."""
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    if not manifest.is_sound:
        _log.warning("%s does not say any more what was written there", directory / MANIFEST)
        return None
    return manifest if manifest.uid == uid else None


def size(directory: Path) -> int:
    """Bytes of the files in a directory, which others may be writing, renaming or removing."""
    found = 0
    for file in directory.glob("*"):
        with suppress(FileNotFoundError):
            found += file.stat().st_size
    return found


def visible(parent: Path) -> list[Path]:
    """The directories in `parent` that have their final names, in the order of those."""
    return sorted(path for path in parent.glob("*") if not path.name.endswith(_TEMPORARY_SUFFIX))


class Condition(Enum):
    """What files are like, beside what they were when they were complete."""

    INTACT = auto()
    DAMAGED = auto()
    UNREADABLE = auto()
    """The volume does not give them: for the time being, or because that part of a disk is gone."""


def condition(directory: Path, files: Mapping[str, FileRecord], tick: Callable[[], None]) -> Condition:
    """What some files of a complete directory are like."""
    try:
        same = all(sha256(directory / name, tick) == record.sha256 for name, record in files.items())
    except FileNotFoundError as error:
        _log.warning("%s: %s", directory, error)
        return Condition.DAMAGED
    except OSError as error:
        if error.errno not in (errno.ESTALE, errno.EIO):
            raise
        _log.warning("%s: %s", directory, error)
        return Condition.UNREADABLE
    return Condition.INTACT if same else Condition.DAMAGED


def intact(directory: Path, files: Mapping[str, FileRecord], tick: Callable[[], None]) -> bool:
    """Whether files have the content that they had when they were complete, and can be read."""
    return condition(directory, files, tick) is Condition.INTACT


def replace_file(file: Path, content: str, *, durable: bool = False) -> None:
    """Write a file that is there wholly or not at all, in the place of what was there.

    A `durable` one is flushed to disk before, so that a loss of power leaves one of the two.
    """
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as opened:
        opened.write(content.encode())
        if durable:
            opened.flush()
            os.fsync(opened.fileno())
    temporary.replace(file)


def flush(path: Path) -> None:
    """Have a file's content, or a directory's entries, on the disk: they outlast a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(file: Path, tick: Callable[[], None]) -> str:
    """SHA-256 of a file's content, in hexadecimal. `tick` is called all along: files may be large and volumes slow."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        while part := opened.read(_HASHED_AT_ONCE):
            digest.update(part)
            tick()
    return digest.hexdigest()


def _set_aside(directory: Path, writer: str = "") -> Path:
    """Take a directory's final name from it, for it to be removed."""
    aside = temporary(directory, f"{_REMOVED}.{writer}" if writer else _REMOVED)
    shutil.rmtree(aside, ignore_errors=True)
    return directory.rename(aside)


def _seal(file: Path, tick: Callable[[], None]) -> FileRecord:
    # safetensors makes files that only their owner can read; what serves the model runs as somebody else.
    file.chmod(0o644)
    flush(file)
    return FileRecord(bytes=file.stat().st_size, sha256=sha256(file, tick))


def _write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    # As it will be read: JSON has fewer kinds of values than `facts`.
    plain = Manifest.model_validate_json(manifest.model_dump_json(by_alias=True, exclude_none=True))
    text = plain.sealed().model_dump_json(by_alias=True, indent=1, exclude_none=True)
    with (directory / MANIFEST).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    flush(directory)
    return manifest
