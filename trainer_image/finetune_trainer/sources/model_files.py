"""Which files of a directory are a model."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

WEIGHTS = "*.safetensors"
# How a model is used: the tokens that end a text and how others are drawn, and what makes inputs of images.
USE = ("generation_config.json", "preprocessor_config.json", "processor_config.json")
# Configuration, tokenizer and its templates. Nothing that can run code when it is read: no pickles, no Python.
_OTHERS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "vocab.bpe")
# The model card of what is trained says what the base model allows.
_CONDITIONS = ("README.md", "LICENSE*")
_TEMPLATES = "additional_chat_templates/"
# A second copy of the same weights, as some vendors' own programs read it.
_COPY = "consolidated*.safetensors"


def of_model(files: Iterable[str]) -> list[str]:
    """Those of a repository or directory that are its model, by paths with slashes; of its subdirectories none but
    that of chat templates: others hold the same model in another form."""
    found = sorted(name for name in files if _is_read(name))
    weights = [name for name in found if fnmatchcase(name, WEIGHTS)]
    copies = {name for name in weights if fnmatchcase(name, _COPY)}
    return found if len(copies) == len(weights) else [name for name in found if name not in copies]


def of_directory(directory: Path) -> list[str]:
    """Those of a directory."""
    return of_model(
        file.relative_to(directory).as_posix()
        for pattern in ("*", f"{_TEMPLATES}*")
        for file in directory.glob(pattern)
        if file.is_file()
    )


def _is_read(name: str) -> bool:
    if name.startswith(_TEMPLATES):
        return name.endswith(".jinja")
    return "/" not in name and any(
        fnmatchcase(name, pattern) for pattern in (WEIGHTS, *_OTHERS, *_CONDITIONS)
    )
