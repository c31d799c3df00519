"""YAML and JSON as people like to read them."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer
import yaml

from finetune_operator.cli.kubectl_yaml import KubectlScalars

MachineFormat = Literal["yaml", "json"]
Format = Literal["text", "yaml", "json"]
OutputOption = Annotated[Format, typer.Option("-o", "--output", help="How to print the result.")]


class _Dumper(KubectlScalars, yaml.SafeDumper):
    """Quotes what kubectl would not take for text, and writes everything out: anchors and aliases are for machines."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def to_yaml(documents: Iterable[Any]) -> str:
    """The documents, one after the other."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def to_json(document: Any) -> str:
    """A document."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(document: Any, form: MachineFormat) -> None:
    """Print a document to standard output."""
    typer.echo(to_yaml([document]) if form == "yaml" else to_json(document), nl=False)
