"""A storage claim that takes no more: how that is seen, and what is said."""

import errno
from pathlib import Path

from finetune_api.runconfig import RunConfig
from finetune_trainer.ends import symptoms
from finetune_trainer.ends.errors import StorageFullError, described

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)


def said(error: BaseException, config: RunConfig | None) -> str | None:
    """A sentence for people if this error means that the run's storage is full; None if it does not.

    `config` names the claim, as far as it is known.
    """
    words = symptoms.full(str(error))
    if not words and not isinstance(error, StorageFullError):
        return None
    if isinstance(error, OSError) and error.errno in _NUMBERS and not _on_storage(error.filename, config):
        return None
    where = "the storage volume"
    if config is not None:
        where = f"spec.storage: {described(config.storage, Path(config.locations.storage))}"
    reason = f" ({words})" if words else ""
    return f"{where} is full{reason}; what was complete on it is still there. Free or enlarge the claim."


def _on_storage(file: object, config: RunConfig | None) -> bool:
    """Whether a file lies on the storage claim, as far as that can be told."""
    if config is None or not isinstance(file, str):
        return True
    places = (config.locations.storage, config.locations.prepared, config.locations.downloads)
    return any(Path(file).is_relative_to(place) for place in places)
