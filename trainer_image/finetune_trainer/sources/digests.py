"""What an input is told apart by from every other, and from itself at another time."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
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


def of_data(files: Sequence[Path], tick: Callable[[], None]) -> str:
    """The digest of the files of a data set."""
    found = [commit.sha256(file, tick) for file in files]
    if len(found) == 1:
        return of_file(found[0])
    return of_files({file.name: sha256 for file, sha256 in zip(files, found, strict=True)})


def looked_at(config: RunConfig, name: str, tick: Callable[[], None]) -> Recorded:
    """An input that is not downloaded, as it is now. Raises OSError where it cannot be read."""
    one = Recorded(name=name, origin=origins(config)[name])
    if name == MODEL:
        directory = Path(config.locations.model)
        size = sum((directory / file).stat().st_size for file in of_directory(directory))
        changes = {"digest": f"{_SAMPLED}{fingerprint(directory)}", "revision": named(directory).revision}
    else:
        files = [Path(file) for file in config.locations.data[name]]
        size = sum(file.stat().st_size for file in files)
        changes = {"digest": of_data(files, tick)}
    return one.model_copy(update={**changes, "bytes": size})
