"""Volumes keep to themselves: no path of a job leads out of its volume, whatever links lie there.

Others may write to a volume that a job reads; what they could have it read, or overwrite, is theirs already.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from finetune_api.evaluation import MODEL
from finetune_api.runconfig import RunConfig
from finetune_trainer.ends.errors import InvalidConfigurationError


def root(location: str, path: str) -> Path:
    """The root of the volume of which `path` appears at `location`."""
    parts = len(PurePosixPath(path).parts)
    return Path(*Path(location).parts[: len(Path(location).parts) - parts])


def root_of_storage(config: RunConfig) -> Path:
    """The root of the storage claim."""
    return root(config.locations.storage, config.storage.path)


def root_of_input(config: RunConfig, name: str) -> Path:
    """The root of the volume that an input lies on. What was downloaded lies on the storage claim."""
    if name == MODEL:
        on_volume = config.model.volume or config.model.image
        return root(config.locations.model, on_volume.path) if on_volume else root_of_storage(config)
    source, [first, *_] = config.data_sets[name].source, config.locations.data[name]
    if source.volume is not None:
        return root(first, source.volume.path)
    # Of a ConfigMap, the volume has nothing but its keys.
    return Path(first).parent if source.config_map is not None else root_of_storage(config)


def check(volume: Path, paths: Iterable[Path], origin: str) -> None:
    """Make sure that paths lie on the volume with this root. Raises InvalidConfigurationError, OSError."""
    base = volume.resolve()
    for path in paths:
        try:
            real = path.resolve()
        except RuntimeError:  # what links that lead in a circle are before Python 3.13
            raise InvalidConfigurationError(f'{origin}: the link "{path}" leads in a circle') from None
        if not real.is_relative_to(base):
            raise InvalidConfigurationError(
                f'{origin}: "{path}" leads out of its volume, to "{real}", and is not followed: put what is meant '
                "on the same volume"
            )
