"""What of a run is uploaded, and how it lies there: what people load is at the root.

Of an adapter that was merged, that is the model; the adapter goes along in a directory of its own. Nothing is taken
that no manifest names.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_api import names
from finetune_api.model import ApiModel
from finetune_trainer import commit
from finetune_trainer.commit import FileRecord, Manifest
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.reports import history
from finetune_trainer.sources import containment
from finetune_trainer.storage import Storage

ADAPTER_DIR = "adapter"


@dataclass(frozen=True)
class Content:
    """A file of a result."""

    name: str
    """At the target."""
    file: Path
    record: FileRecord
    """What it was when it was complete."""

    def verify(self, tick: Callable[[], None]) -> None:
        """Make sure that it still is. Raises InvalidConfigurationError if it is not, OSError."""
        self.expect(commit.sha256(self.file, tick))

    def expect(self, digest: str) -> None:
        """The same, of a file whose SHA-256 is known."""
        if digest != self.record.sha256:
            raise InvalidConfigurationError(
                f'spec.storage: the result is damaged: "{self.file}" has not the content that it had when it was '
                "complete, and is not uploaded. Put it back, or train anew with another spec.storage.path"
            )


class Known(ApiModel):
    """Files that earlier uploads to a place have left there, or may have: some may have been cut half-way."""

    files: dict[str, list[FileRecord]] = {}
    """By name. Where several uploads had one of that name, nobody knows which of them came as far as that."""

    def and_of(self, manifest: Manifest | None) -> "Known":
        """These, and those of this result."""
        files = dict(self.files)
        for name, record in manifest.files.items() if manifest else ():
            records = files.get(name, [])
            files[name] = records if record in records else [*records, record]
        return Known(files=files)


@dataclass(frozen=True)
class Contents:
    """All files of a result, and the manifest that goes with them."""

    files: tuple[Content, ...]
    manifest: Manifest
    """Of all of them, by their names at the target. It is the same whenever the same result is uploaded."""

    def stale(self, known: Known) -> Iterator[tuple[str, list[FileRecord]]]:
        """Files of earlier results at the same place that this one has not: they would be taken for a part of it."""
        for name, records in known.files.items():
            if name not in self.manifest.files and name != commit.MANIFEST and ".." not in name.split("/"):
                yield name, records


def contents(storage: Storage, where: str, volume: Path) -> Contents:
    """The result of a run; `where` is its storage in the words of the spec, `volume` the root of that.

    Raises InvalidConfigurationError where there is none.
    """
    output = commit.read(storage.output, uid=storage.uid)
    if output is None:
        raise InvalidConfigurationError(
            f"spec.storage: the directory {where} has no complete result in {names.OUTPUT_DIR}, so there is nothing to "
            "upload. Put it back, or train anew with another spec.storage.path"
        )
    merged = None
    if history.output_of(storage, output).merged is not None:
        merged = commit.read(storage.merged, uid=storage.uid)
    if merged is None:
        files = _files(storage.output, output, "")
    else:
        files = _files(storage.merged, merged, "") + _files(storage.output, output, f"{ADAPTER_DIR}/")
    containment.check(volume, [content.file for content in files], f"spec.storage: {where}")
    manifest = Manifest(
        uid=storage.uid,
        time=(merged or output).time,
        facts=output.facts | ({"format": "model"} if merged else {}),
        files={content.name: content.record for content in files},
    )
    return Contents(files, manifest)


def text(manifest: Manifest) -> str:
    """A manifest as it lies at the target."""
    return manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True)


def known(found: bytes) -> Known:
    """What is known to be there; nothing where that is somebody else's file."""
    if manifest := earlier(found):
        # An earlier version kept that of the result that it was replacing as it was.
        return Known().and_of(manifest)
    try:
        return Known.model_validate_json(found)
    except ValueError:
        return Known()


def earlier(found: bytes) -> Manifest | None:
    """The manifest of an earlier result; None where that is somebody else's file."""
    try:
        return Manifest.model_validate_json(found)
    except ValueError:
        return None


def _files(directory: Path, manifest: Manifest, prefix: str) -> tuple[Content, ...]:
    return tuple(
        Content(f"{prefix}{name}", directory / name, record)
        for name, record in sorted(manifest.files.items())
    )
