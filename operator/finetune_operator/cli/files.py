"""What the FILE arguments of a command stand for: files, directories of files, the standard input."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from finetune_operator.cli.errors import CommandError

STDIN = "-"
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class File:
    """A file that was read."""

    name: str
    content: bytes
    named: bool
    """Whether an argument names it; it was found in a directory otherwise."""


def _existing(argument: str) -> str:
    if argument != STDIN and not Path(argument).exists():
        raise typer.BadParameter(f"there is no file or directory {argument}")
    return argument


def _all_existing(arguments: list[str] | None) -> list[str]:
    return [_existing(argument) for argument in arguments or ()]


_FILES = typer.Argument(
    metavar="FILE",
    callback=_all_existing,
    help="YAML or JSON files, directories of such files, or - for the standard input.",
)
Arguments = Annotated[list[str], _FILES]
OptionalArguments = Annotated[list[str] | None, _FILES]
Argument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", callback=_existing, help="A YAML or JSON file, or - for the standard input."
    ),
]


def read(arguments: Iterable[str]) -> Iterator[File]:
    """Read every file that the arguments stand for; those of a directory in alphabetical order.

    Raises CommandError when one cannot be read.
    """
    for argument in arguments:
        if argument == STDIN:
            yield File("<stdin>", sys.stdin.buffer.read(), named=True)
        elif Path(argument).is_dir():
            for path in _found_in(argument):
                yield File(path, _content(path), named=False)
        else:
            yield File(argument, _content(argument), named=True)


def _found_in(directory: str) -> Iterator[str]:
    for parent, folders, found in os.walk(directory):
        # .git, .github and the like hold no manifests.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(found) if name.endswith(SUFFIXES))


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
