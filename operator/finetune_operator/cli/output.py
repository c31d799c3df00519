"""YAML as people like to read it."""

from collections.abc import Iterable
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes everything out: anchors and aliases are for machines."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def to_yaml(documents: Iterable[Any]) -> str:
    """The documents, one after the other."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
