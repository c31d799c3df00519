"""Where in a YAML file the fields of an object stand."""

from collections.abc import Sequence

import yaml


def line_of(node: yaml.Node, location: Sequence[int | str] = ()) -> int:
    """The line of a field, or of the innermost object around it that the file has; counts from 1."""
    line = _start(node)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                return line
            line, node = _start(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = _start(node)
        else:
            return line
    return line


def _start(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
