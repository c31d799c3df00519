"""Which model an adapter belongs to: for programs that load both, and to tell whether that has changed."""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

# Of each file as many bytes, spread over all of it: training changes practically every weight.
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
_CACHED = re.compile(r"(?:^|/)models--(?P<repo>[^/]+)/snapshots/(?P<revision>[^/]+)(?:/|$)")


@dataclass(frozen=True)
class Named:
    """What programs find a base model by."""

    name: str
    """A model's name on the Hugging Face hub, or a directory."""
    revision: str | None = None
    """Of the model on the hub."""


def named(directory: Path) -> Named:
    """The name of the model in a directory: that on the hub if the directory is of its cache, or else the path."""
    if found := _CACHED.search(str(directory)):
        return Named(found["repo"].replace("--", "/"), found["revision"])
    return Named(str(directory))


def fingerprint(directory: Path) -> str:
    """A digest by which to tell whether a model's configuration or weights are still the same.

    Of the weights only samples are read: the whole of a large model would take minutes at every start.
    """
    digest = sha256(json.dumps(json.loads((directory / "config.json").read_bytes()), sort_keys=True).encode())
    for file in sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for number in range(_SAMPLES):
                content.seek(number * size // _SAMPLES)
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()
