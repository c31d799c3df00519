"""Write docs/reference/api.md from the CustomResourceDefinition (`make docs`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.crd import COLUMNS, custom_resource_definition
from schema_tables import bounds, line, table

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "reference" / "api.md"

HEAD = f"""\
<!-- Generated from crds/finetune_api by `make docs`. Do not edit. -->
# API reference

`{names.API_VERSION}`, kind `{names.KIND}`, short name `{names.SHORT_NAMES[0]}`. `kubectl explain {names.SINGULAR}.spec`
shows the same in a terminal. What the hyperparameters do, and how to set them, has
[a page of its own](../hyperparameters.md); what becomes of a value that is left out, too.

Unknown fields are errors. `null` is as if a field were not there. Once training has begun, the API server refuses
changes of what decides its result.
"""

Schema = dict[str, Any]


def rendered() -> str:
    """The text of the page."""
    [version] = custom_resource_definition()["spec"]["versions"]
    top = version["schema"]["openAPIV3Schema"]
    lines = [HEAD, *_columns()]
    for part in ("spec", "status"):
        schema = top["properties"][part]
        lines += [f"## {part}\n", f"{line(schema['description'])}\n", *_object(part, schema)]
    lines += ["## Rules of the whole object\n", *_rules(top)]
    return "\n".join(lines)


def _columns() -> Iterator[str]:
    yield "## kubectl get\n"
    rows = [
        (column["name"], f"`{column['jsonPath']}`", "with `-o wide`" if "priority" in column else "")
        for column in COLUMNS
    ]
    yield from table(("Column", "What it shows", ""), rows)


def _object(path: str, schema: Schema) -> Iterator[str]:
    """The fields of an object, its rules, and then every object below it."""
    required = schema.get("required", ())
    rows, below = [], []
    for name, field in schema["properties"].items():
        inner = field.get("items", field)
        is_object = "properties" in inner
        place = f"{path}.{name}" + ("[]" if "items" in field else "")
        values = f"[{bounds(field)}](#{_anchor(place)})" if is_object else _kind(field)
        left_out = "required" if name in required else "" if is_object else _default(field)
        rows.append((f"`{name}`", values, left_out, _described(field)))
        if is_object:
            below.append((place, field, inner))
    yield from table(("Field", "Values", "Left out", "What it is"), rows)
    yield from _rules(schema)
    for place, field, inner in below:
        yield f"### {place}\n"
        yield f"{_described(field) or _described(inner)}\n"
        yield from _object(place, inner)


def _rules(schema: Schema) -> Iterator[str]:
    """The rules of an object, and those of its fields that are no objects with a section of their own."""
    rule_of = "x-kubernetes-validations"
    told = [rule["message"] for rule in schema.get(rule_of, ())]
    for name, field in schema.get("properties", {}).items():
        if "properties" not in field:
            told += [f"`{name}` {rule['message']}" for rule in field.get(rule_of, ())]
    if told:
        yield from ("Rules:\n", *(f"- {line(sentence)}" for sentence in told), "")


def _kind(field: Schema) -> str:
    if field.get("format") == "date-time":
        return "a time"
    if "additionalProperties" in field:
        return f"up to {field['maxProperties']} keys with a text each"
    if field["type"] in ("integer", "number") and "minimum" not in field:
        return "a whole number" if field["type"] == "integer" else "a number"
    if field["type"] == "string" and "maxLength" in field:
        return f"a text of at most {field['maxLength']:,} characters"
    return bounds(field)


def _anchor(heading: str) -> str:
    return "".join(letter for letter in heading.lower() if letter.isalnum())


def _default(field: Schema) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else ""


def _described(field: Schema) -> str:
    return line(field.get("description", "")).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(rendered())
    print(TARGET.relative_to(ROOT))
