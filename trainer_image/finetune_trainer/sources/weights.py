"""Files of weights: whether they are whole, as far as can be told without reading all of them."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from finetune_trainer.ends.errors import InvalidConfigurationError

_ALONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_REMEDY = "Put the model there again"


def check(directory: Path, origin: str) -> None:
    """Make sure that the files of a model's weights are there, and as long as they say themselves.

    Raises InvalidConfigurationError, which begins with `origin`; OSError where one cannot be read.
    """
    for name in _names(directory, origin):
        try:
            with safe_open(str(directory / name), framework="numpy"):
                pass
        except FileNotFoundError:
            raise InvalidConfigurationError(
                f"{origin} is not complete: {_INDEX} names {name}, which is not there. {_REMEDY}"
            ) from None
        except SafetensorError as error:
            raise InvalidConfigurationError(
                f"{origin}: {name} is damaged, or not complete ({error}). {_REMEDY}"
            ) from None


def _names(directory: Path, origin: str) -> list[str]:
    """The files that are loaded; none where they have names that only whoever loads them knows."""
    if (directory / _ALONE).exists():
        return [_ALONE]
    if not (directory / _INDEX).exists():
        return []
    try:
        names = {str(name) for name in json.loads((directory / _INDEX).read_bytes())["weight_map"].values()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidConfigurationError(f"{origin}: {_INDEX} is damaged ({error}). {_REMEDY}") from None
    if outside := sorted(name for name in names if "/" in name):
        raise InvalidConfigurationError(
            f"{origin}: {_INDEX} names {outside[0]}, which is not in the directory, and is not followed. {_REMEDY}"
        )
    return sorted(names)
