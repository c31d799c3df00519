"""FineTuneJobs in YAML files: what they say, and what is wrong with them, by line."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import yaml
from pydantic import ValidationError

from finetune_api import names
from finetune_api.spec import FineTuneJob
from finetune_operator import validation
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kubectl_yaml import KubectlLoader

# All that the API server keeps of an object besides spec and status.
TOP_LEVEL_FIELDS = {"apiVersion", "kind", "metadata", "spec", "status"}
# A tag that YAML gives to keys like `<<`, which may well come twice.
MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Problem:
    """A fault of a file."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@dataclass
class Manifests:
    """What some files hold."""

    jobs: list[FineTuneJob] = field(default_factory=list)
    """The valid FineTuneJobs."""
    problems: list[Problem] = field(default_factory=list)
    """All that is wrong with the others, or with the files."""
    skipped: list[str] = field(default_factory=list)
    """Objects of other kinds, one sentence each."""


def read(files: Iterable[IO[str]]) -> Manifests:
    """Read all documents of all files."""
    manifests = Manifests()
    for file in files:
        _read_file(file, manifests)
    return manifests


def read_one(file: IO[str]) -> FineTuneJob:
    """The only FineTuneJob of a file.

    Raises CommandError when it is invalid, or when there is none or more than one.
    """
    manifests = read([file])
    if manifests.problems:
        raise CommandError("\n".join(map(str, manifests.problems)))
    if len(manifests.jobs) != 1:
        found = ", ".join(job.metadata.name for job in manifests.jobs) or "none"
        raise CommandError(f"{file.name}: one {names.KIND} is needed here; found: {found}")
    return manifests.jobs[0]


def _read_file(file: IO[str], manifests: Manifests) -> None:
    try:
        loader = KubectlLoader(file)
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                _read_document(file.name, node, loader.construct_document(node), manifests)
    except UnicodeDecodeError as error:
        manifests.problems.append(Problem(file.name, 1, f"is not a text file in UTF-8: {error}"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        text = getattr(error, "problem", None) or str(error)
        manifests.problems.append(
            Problem(file.name, mark.line + 1 if mark else 1, f"is not valid YAML: {text}")
        )


def _read_document(file: str, node: yaml.Node, manifest: Any, manifests: Manifests) -> None:
    if manifest is None:
        return
    line = _line(node)
    if not isinstance(manifest, dict):
        manifests.problems.append(Problem(file, line, f"is not an object, but {manifest!r}"))
        return
    kind, api_version = manifest.get("kind"), str(manifest.get("apiVersion", ""))
    # A misspelt kind of our group, or our kind in another group, is a mistake and not another kind.
    if kind != names.KIND and not api_version.startswith(f"{names.GROUP}/"):
        manifests.skipped.append(f"{file}:{line}: skipped: {kind or 'no kind'} is not a {names.KIND}")
        return
    problems = [*_repeated_keys(file, node), *_unknown_top_level(file, node, manifest)]
    try:
        job = validation.parse(manifest)
    except ValidationError as error:
        sentences = validation.problems(error)
        faults = zip(error.errors(), sentences, strict=True)
        problems += [Problem(file, _line_of(node, fault["loc"]), sentence) for fault, sentence in faults]
    if problems:
        manifests.problems += sorted(problems, key=lambda problem: problem.line)
    else:
        manifests.jobs.append(job)


def _unknown_top_level(file: str, node: yaml.Node, manifest: dict[str, Any]) -> Iterator[Problem]:
    for name in manifest.keys() - TOP_LEVEL_FIELDS:
        allowed = ", ".join(sorted(TOP_LEVEL_FIELDS))
        yield Problem(file, _line_of(node, [name]), f"{name}: there is no such field; there are {allowed}")


def _repeated_keys(file: str, document: yaml.Node) -> Iterator[Problem]:
    """YAML parsers silently take the last of equal keys; the API server does not."""
    todo = [(document, "")]
    # Aliases make a graph of the tree, with cycles even.
    visited: set[int] = set()
    while todo:
        node, path = todo.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += [(child, f"{path}[{index}]") for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                field_path = f"{path}.{name}".lstrip(".")
                if name in seen and key.tag != MERGE_TAG:
                    yield Problem(file, _line(key), f"{field_path}: is there twice; remove one")
                seen.add(name)
                todo.append((value, field_path))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line_of(node: yaml.Node, location: Sequence[int | str]) -> int:
    """The line of a field, or of the innermost object around it that the file has."""
    line = _line(node)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                return line
            line, node = _line(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = _line(node)
        else:
            return line
    return line
