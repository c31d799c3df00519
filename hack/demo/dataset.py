#!/usr/bin/env python3
"""Make a small data set about Python's standard library: `dataset.py DIR` writes train.jsonl and heldout.jsonl.

Every row asks for a function and gets an answer in one and the same form, which the base model does not know:

    What does `shutil.move(src, dst, copy_function=copy2)` do?

    **move** from `shutil`: Recursively move a file or directory to another location.
    - needs: src, dst
    - optional: copy_function
    - import: `from shutil import move`

The form can be learnt from a few hundred rows, and most of an answer follows from its question, so the loss on rows
that were never trained on falls too. The same Python makes the same files.
"""

import hashlib
import importlib
import inspect
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

MODULES = """
    abc ast asyncio base64 binascii bisect calendar cmath code codecs colorsys compileall contextlib copy
    copyreg csv dataclasses datetime decimal difflib dis email.utils enum fileinput filecmp fnmatch fractions
    functools gc getpass gettext glob gzip hashlib heapq hmac html imaplib importlib inspect io ipaddress
    itertools json keyword linecache locale logging lzma marshal math mimetypes operator os os.path pickle
    pkgutil platform plistlib pprint py_compile queue quopri random re reprlib sched secrets select shelve
    shlex shutil signal socket ssl stat statistics string struct subprocess symtable sys sysconfig tarfile
    tempfile textwrap threading time timeit tokenize trace traceback tracemalloc types typing unicodedata
    unittest urllib.parse urllib.request uuid warnings wave weakref webbrowser xml.dom.minidom
    xml.etree.ElementTree zipfile zlib
"""
TRAIN_ROWS = 160
HELDOUT_ROWS = 16
# So that os and math do not crowd out the rest.
FUNCTIONS_PER_MODULE = 10
MAX_PARAMETERS = 4
SUMMARY_LENGTH = range(20, 90)

Row = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Function:
    """What is said of one function."""

    module: str
    name: str
    parameters: tuple[inspect.Parameter, ...]
    summary: str

    @property
    def question(self) -> str:
        """What is asked."""
        return f"What does `{self.module}.{self.name}({', '.join(map(_shown, self.parameters))})` do?"

    @property
    def answer(self) -> str:
        """The form to be learnt."""
        needed = [parameter.name for parameter in self.parameters if parameter.default is parameter.empty]
        optional = [
            parameter.name for parameter in self.parameters if parameter.default is not parameter.empty
        ]
        return (
            f"**{self.name}** from `{self.module}`: {self.summary}\n"
            f"- needs: {', '.join(needed) or 'nothing'}\n"
            f"- optional: {', '.join(optional) or 'nothing'}\n"
            f"- import: `from {self.module} import {self.name}`"
        )


def functions() -> list[Function]:
    """Briefly described functions of the modules above, mixed, each once and only some of each module."""
    found: dict[str, Function] = {}
    for module in MODULES.split():
        for function in _functions_of(module):
            # Modules share functions and descriptions: one of each, or a row held out would be no news.
            found.setdefault(function.summary.lower(), function)
    # A hash orders them as if at random, and gives a function the same place whatever else there is.
    mixed = sorted(found.values(), key=lambda f: hashlib.sha256(f.question.encode()).digest())
    taken: Counter[str] = Counter()
    chosen = []
    for function in mixed:
        taken[function.module] += 1
        if taken[function.module] <= FUNCTIONS_PER_MODULE:
            chosen.append(function)
    return chosen


def _functions_of(module: str) -> Iterator[Function]:
    try:
        content = importlib.import_module(module)
    except ImportError:  # Not every Python has every module.
        return
    for name in getattr(content, "__all__", sorted(vars(content))):
        value = getattr(content, name)
        if name.startswith("_") or not inspect.isroutine(value):
            continue
        try:
            parameters = tuple(inspect.signature(value).parameters.values())
        except ValueError:  # Functions written in C need not say what they take.
            continue
        summary = _first_sentence(inspect.getdoc(value) or "")
        simple = all(_is_simple(parameter) for parameter in parameters) and len(parameters) <= MAX_PARAMETERS
        if simple and len(summary) in SUMMARY_LENGTH:
            yield Function(module, name, parameters, summary)


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.split("\n\n")[0].replace("``", "").replace("`", "").split())
    sentence = re.split(r"(?<=[a-z)])\. ", paragraph)[0].rstrip(".")
    # Some docstrings begin with the signature, which the question has already.
    is_prose = sentence[:1].isupper() and "(" not in sentence.split(" ")[0]
    return f"{sentence}." if is_prose else ""


def _is_simple(parameter: inspect.Parameter) -> bool:
    plain = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return plain and len(_shown(parameter)) <= 24 and not parameter.name.startswith("_")


def _shown(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return parameter.name
    default = parameter.default
    shown = default.__name__ if inspect.isroutine(default) or inspect.isclass(default) else repr(default)
    return f"{parameter.name}={shown}"


def conversation(question: str, answer: str) -> Row:
    """A row as the trainer reads it."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def datasets() -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to hold out. One of the former is much too long: training drops and counts it."""
    mixed = functions()
    if len(mixed) < TRAIN_ROWS + HELDOUT_ROWS:
        raise click.ClickException(f"only {len(mixed)} functions were found in the standard library")
    heldout, train = mixed[:HELDOUT_ROWS], mixed[HELDOUT_ROWS : HELDOUT_ROWS + TRAIN_ROWS]
    overlong = conversation(
        "Describe what you know of Python's standard library.", "\n\n".join(f.answer for f in train[:30])
    )
    return (
        [*(conversation(f.question, f.answer) for f in train), overlong],
        [conversation(f.question, f.answer) for f in heldout],
    )


def write(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON lines, all or nothing, readable by training pods, which run as somebody else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def main(directory: Path) -> None:
    """Write train.jsonl and heldout.jsonl into DIRECTORY."""
    train, heldout = datasets()
    write(directory / "train.jsonl", train)
    write(directory / "heldout.jsonl", heldout)
    click.echo(f"{len(train)} rows to train on and {len(heldout)} held out are in {directory}.")


if __name__ == "__main__":
    main()
