"""Pure: reading the fields of a model's config.json, with errors that name the field."""

import reprlib
from collections.abc import Mapping
from typing import Any

# No dimension of a real model comes near it; beyond, numbers would stop fitting into a float.
_LARGEST = 2**31 - 1


class ArchitectureError(ValueError):
    """A config.json from which the model's shapes cannot be known; the message names the field and what to do."""


def size(config: Mapping[str, Any], field: str) -> int:
    """A number that config.json must state."""
    stated = optional_size(config, field, None)
    if stated is None:
        raise ArchitectureError(
            f"{field}: missing in config.json; a {config['model_type']} model states it, "
            "so give the complete file that lies beside the model's weights"
        )
    return stated


def optional_size(config: Mapping[str, Any], field: str, default: int | None) -> int | None:
    """A number that config.json may leave out (`default`) or state as null (None)."""
    value = config.get(field, default)
    if value is None:
        return None
    # JSON's true is a bool, and Python's bool is an int.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
        raise ArchitectureError(f"{field}: {reprlib.repr(value)} is not a whole number from 1 to {_LARGEST}")
    return value


def flag(config: Mapping[str, Any], field: str, default: bool) -> bool:
    """A boolean that config.json may leave out."""
    value = config.get(field, default)
    if not isinstance(value, bool):
        raise ArchitectureError(f"{field}: {reprlib.repr(value)} is neither true nor false")
    return value


def bytes_per_number(config: Mapping[str, Any]) -> int:
    """Width of the checkpoint's numbers: 2 or 4."""
    widths = {"float32": 4, "bfloat16": 2, "float16": 2}
    field = "dtype" if config.get("dtype") is not None else "torch_dtype"
    dtype = config.get(field)
    if dtype is None:
        # Files that do not tell are from before the field was written; models were stored in float32 then.
        return widths["float32"]
    if not isinstance(dtype, str) or dtype not in widths:
        raise ArchitectureError(f"{field}: {reprlib.repr(dtype)} is not one of {', '.join(widths)}")
    return widths[dtype]
