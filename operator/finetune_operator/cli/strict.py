"""What the API server refuses around the spec: as `kubectl --validate=strict` does, unknown fields too."""

import reprlib
from collections.abc import Iterator
from typing import Any

import yaml

from finetune_operator.cli.diagnostics import SCHEMA, Diagnostic, error
from finetune_operator.cli.lines import line_of

# All that the API server keeps of an object besides spec and status.
TOP_LEVEL_FIELDS = {"apiVersion", "kind", "metadata", "spec", "status"}
METADATA_FIELDS = {
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
}
# A tag that YAML gives to keys like `<<`, which may well come twice.
MERGE_TAG = "tag:yaml.org,2002:merge"


def faults(file: str, node: yaml.Node, manifest: dict[str, Any]) -> Iterator[Diagnostic]:
    """All that is wrong with an object outside of its spec, or with how it is written."""
    yield from _repeated_keys(file, node)
    yield from _unknown(file, node, manifest, [], TOP_LEVEL_FIELDS)
    metadata = manifest.get("metadata")
    if isinstance(metadata, dict):
        yield from _unknown(file, node, metadata, ["metadata"], METADATA_FIELDS)
        for name in ("labels", "annotations"):
            yield from _other_than_texts(file, node, metadata.get(name), ["metadata", name])


def _unknown(
    file: str, node: yaml.Node, found: dict[Any, Any], path: list[str], known: set[str]
) -> Iterator[Diagnostic]:
    for name in found.keys() - known:
        field = ".".join([*path, str(name)])
        message = f"there is no such field; there are {', '.join(sorted(known))}"
        yield error(file, line_of(node, [*path, name]), SCHEMA, field, message)


def _other_than_texts(file: str, node: yaml.Node, found: Any, path: list[str]) -> Iterator[Diagnostic]:
    """Labels and annotations are texts: an unquoted `true` or `1.10` is not."""
    if found is None:
        return
    if not isinstance(found, dict):
        yield error(
            file,
            line_of(node, path),
            SCHEMA,
            ".".join(path),
            f"must be an object (found {reprlib.repr(found)})",
        )
        return
    for name, value in found.items():
        if not isinstance(value, str):
            field = ".".join([*path, str(name)])
            message = f"must be a text: put it in quotes (found {reprlib.repr(value)})"
            yield error(file, line_of(node, [*path, name]), SCHEMA, field, message)


def _repeated_keys(file: str, document: yaml.Node) -> Iterator[Diagnostic]:
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
                field = f"{path}.{name}".lstrip(".")
                if name in seen and key.tag != MERGE_TAG:
                    yield error(file, line_of(key), SCHEMA, field, "is there twice; remove one")
                seen.add(name)
                todo.append((value, field))
