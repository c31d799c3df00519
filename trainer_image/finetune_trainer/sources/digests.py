"""What an input is told apart by from every other, and from itself at another time."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_api.evaluation import MODEL
from finetune_api.runconfig import RunConfig
from finetune_trainer import commit
from finetune_trainer.adapters.identity import fingerprint, named
from finetune_trainer.sources.model_files import of_directory
from finetune_trainer.sources.record import Recorded, origins

_SHA256 = "sha256:"
_SAMPLED = "sampled-sha256:"


def of_file(sha256: str) -> str:
    """The digest of a file whose content has this one."""
    return f"{_SHA256}{sha256}"


def of_files(contents: Mapping[str, str]) -> str:
    """The digest of several: that of what sha256sum prints of them, sorted by their names."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(contents.items()))
    return of_file(hashlib.sha256(lines.encode()).hexdigest())


def of_data(files: Mapping[str, Path], tick: Callable[[], None]) -> str:
    """The digest of the files of a data set, by their whole names: bucket and key, of objects."""
    found = {name: commit.sha256(file, tick) for name, file in files.items()}
    if len(found) == 1:
        return of_file(*found.values())
    # The last part of a name, as what lies in one directory is listed; no file may stand for another of the same.
    short = {file.name: found[name] for name, file in files.items()}
    return of_files(short if len(short) == len(found) else found)


def looked_at(config: RunConfig, name: str, tick: Callable[[], None]) -> Recorded:
    """An input that is not downloaded, as it is now. Raises OSError where it cannot be read."""
    one = Recorded(name=name, origin=origins(config)[name])
    if name == MODEL:
        directory = Path(config.locations.model)
        size = sum((directory / file).stat().st_size for file in of_directory(directory))
        changes = {"digest": f"{_SAMPLED}{fingerprint(directory)}", "revision": named(directory).revision}
    else:
        files = {file: Path(file) for file in config.locations.data[name]}
        size = sum(file.stat().st_size for file in files.values())
        changes = {"digest": of_data(files, tick)}
    return one.model_copy(update={**changes, "bytes": size})
