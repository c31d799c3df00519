"""FineTuneJobs in YAML and JSON files: what they say, and what is wrong with them, by line."""

import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
import yaml
from pydantic import ValidationError

from finetune_api import names
from finetune_api.facts import Finding
from finetune_api.spec import FineTuneJob
from finetune_operator import validation
from finetune_operator.cli import diagnostics, files, strict
from finetune_operator.cli.diagnostics import SCHEMA, SYNTAX, Diagnostic, error
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.files import File
from finetune_operator.cli.kubectl_yaml import KubectlLoader
from finetune_operator.cli.lines import line_of

# Whatever the quotes and the case: a misspelt kind of our group, or our kind in another group, is a mistake.
_SPEAKS_OF_US = re.compile(
    rb"(kind['\"]?\s*:\s*['\"]?%b\b)|(apiVersion['\"]?\s*:\s*['\"]?%b/)"
    % (names.KIND.encode(), re.escape(names.GROUP.encode())),
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Manifest:
    """A FineTuneJob in a file."""

    file: str
    node: yaml.Node
    content: dict[str, Any]
    """The object as it is written."""
    job: FineTuneJob | None
    """The job that it describes, if it is valid."""
    faults: tuple[Diagnostic, ...] = ()
    """All that is wrong with it otherwise."""

    @property
    def line(self) -> int:
        """Where it begins."""
        return line_of(self.node)

    def stated(self, name: str) -> Any:
        """What the object's metadata states; None if it states nothing."""
        metadata = self.content.get("metadata")
        return metadata.get(name) if isinstance(metadata, dict) else None

    def locate(self, finding: Finding) -> Diagnostic:
        """A finding about this job, at the line of its field."""
        return Diagnostic(self.file, line_of(self.node, finding.field.split(".")), finding)


@dataclass
class Manifests:
    """What some files hold."""

    found: list[Manifest] = field(default_factory=list)
    """All FineTuneJobs, valid or not."""
    unreadable: list[Diagnostic] = field(default_factory=list)
    """Faults that belong to no FineTuneJob, for no object can be made out."""
    skipped: list[str] = field(default_factory=list)
    """Other things in files that were named, one sentence each."""

    @property
    def errors(self) -> list[Diagnostic]:
        """All that is wrong."""
        return [*self.unreadable, *(fault for manifest in self.found for fault in manifest.faults)]

    @property
    def valid(self) -> list[tuple[Manifest, FineTuneJob]]:
        """The valid FineTuneJobs."""
        return [(manifest, manifest.job) for manifest in self.found if manifest.job is not None]


def read(arguments: Sequence[str]) -> Manifests:
    """Read all documents of all files that the arguments stand for.

    Raises CommandError when a file cannot be read.
    """
    manifests = Manifests()
    for file in files.read(arguments):
        _read_file(file, manifests)
    return manifests


def read_valid(arguments: Sequence[str]) -> list[FineTuneJob]:
    """The FineTuneJobs of the files; there is at least one.

    Ends the command with exit code 1 when anything is wrong with them, or when there is none.
    """
    manifests = read(arguments)
    if manifests.errors:
        diagnostics.show(manifests.errors)
        raise typer.Exit(1)
    if not manifests.found:
        raise none_found(arguments)
    return [job for _, job in manifests.valid]


def none_found(arguments: Iterable[str]) -> CommandError:
    """The error of files without any FineTuneJob."""
    looked_in = ["<stdin>" if argument == files.STDIN else argument for argument in arguments]
    return CommandError(f"there is no {names.KIND} in {', '.join(looked_in)}")


def _read_file(file: File, manifests: Manifests) -> None:
    # Repositories are full of other things: templates that are no YAML yet, and megabytes of lock files.
    if not _SPEAKS_OF_US.search(file.content):
        if file.named:
            manifests.skipped.append(f"{file.name}: skipped: there is no {names.KIND} in it")
        return
    try:
        for node, content in _documents(file.content.decode()):
            for inner, item in _items(node, content):
                _read_object(file, inner, item, manifests)
    except UnicodeDecodeError as fault:
        message = f"is not a text file in UTF-8: {fault}"
        manifests.unreadable.append(error(file.name, 1, SYNTAX, "", message))
    except RecursionError:
        manifests.unreadable.append(error(file.name, 1, SYNTAX, "", "is nested too deeply"))
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        message = f"is not valid YAML: {getattr(fault, 'problem', None) or fault}"
        manifests.unreadable.append(error(file.name, mark.line + 1 if mark else 1, SYNTAX, "", message))


def _read_object(file: File, node: yaml.Node, content: Any, manifests: Manifests) -> None:
    if not isinstance(content, dict):
        message = f"is not an object, but {reprlib.repr(content)}"
        manifests.unreadable.append(error(file.name, line_of(node), SCHEMA, "", message))
    elif _is_ours(content):
        manifests.found.append(_manifest(file.name, node, content))
    elif file.named:
        what = content.get("kind") or "no kind"
        manifests.skipped.append(f"{file.name}:{line_of(node)}: skipped: {what} is not a {names.KIND}")


def _documents(text: str) -> Iterator[tuple[yaml.Node, Any]]:
    """What a file holds, and the nodes that tell where."""
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except ValueError:
            pass  # A mapping of YAML looks like that, too.
        else:
            # JSON may be indented by tabs, and YAML may not; there are none in JSON's texts.
            node = yaml.compose(text.replace("\t", " "), KubectlLoader)
            assert node is not None
            yield node, content
            return
    loader = KubectlLoader(text)
    while loader.check_node():
        node = loader.get_node()
        assert node is not None
        content = loader.construct_document(node)
        if content is not None:
            yield node, content


def _items(node: yaml.Node, content: Any) -> Iterator[tuple[yaml.Node, Any]]:
    """The objects of a list, as `kubectl get -o yaml` writes it, or else the object itself."""
    items = content.get("items") if isinstance(content, dict) else None
    if not isinstance(items, list) or not str(content.get("kind")).endswith("List"):
        yield node, content
        return
    nodes = next((value.value for key, value in node.value if key.value == "items"), None)
    # Where they come by a merge key, the list is as near as one gets.
    for inner, item in zip(nodes or [node] * len(items), items, strict=True):
        yield from _items(inner, item)


def _is_ours(content: dict[str, Any]) -> bool:
    api_version = str(content.get("apiVersion", ""))
    return content.get("kind") == names.KIND or api_version.startswith(f"{names.GROUP}/")


def _manifest(file: str, node: yaml.Node, content: dict[str, Any]) -> Manifest:
    faults = list(strict.faults(file, node, content))
    job = None
    try:
        job = validation.parse(content)
    except ValidationError as invalid:
        for fault in validation.faults(invalid):
            faults.append(error(file, line_of(node, fault.location), SCHEMA, fault.field, fault.message))
    if not faults:
        return Manifest(file, node, content, job)
    return Manifest(file, node, content, None, tuple(sorted(faults, key=lambda fault: fault.line)))
