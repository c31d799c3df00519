"""The manifest that repeats a run, in YAML."""

import re

import yaml

from finetune_api.reproduce import Repetition


class _Dumper(yaml.SafeDumper):
    """Quotes what kubectl, which reads YAML a little differently from PyYAML, would not take for text."""


# Numbers such as 1e5 and 0o7, and the truths y and n.
_Dumper.add_implicit_resolver("!not-text", re.compile(r"[-+]?[.]?[0-9].*|[yYnN]$"), list("-+.0123456789yYnN"))


def to_yaml(repetition: Repetition) -> str:
    """The manifest, with its notes in front."""
    manifest = yaml.dump(repetition.job, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return f"{repetition.comment}\n{manifest}"
