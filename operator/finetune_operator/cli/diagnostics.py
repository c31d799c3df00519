"""Findings with their place in a file, told as compilers tell them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from finetune_api.facts import Finding, Severity

# Rules that are no guideline: the file is no YAML, or its object is not what the API server takes.
SYNTAX = "syntax"
SCHEMA = "schema"

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}


@dataclass(frozen=True)
class Diagnostic:
    """A finding at a line of a file."""

    file: str
    line: int
    """Counts from 1."""
    finding: Finding

    @property
    def is_error(self) -> bool:
        """Whether the file cannot stay as it is."""
        return self.finding.severity is Severity.ERROR

    @property
    def text(self) -> str:
        """The finding in words, with the rule to look up where it is the guide's."""
        found = self.finding
        sentence = str(found) if found.field else found.message
        return sentence if found.rule in (SYNTAX, SCHEMA) else f"{sentence} [{found.rule}]"

    def to_wire(self) -> dict[str, Any]:
        """The JSON-ready form."""
        found = self.finding
        return {
            "file": self.file,
            "line": self.line,
            "field": found.field,
            "severity": found.severity.value,
            "rule": found.rule,
            "message": found.message,
        }


def error(file: str, line: int, rule: str, field: str, message: str) -> Diagnostic:
    """A diagnostic that makes its file invalid."""
    return Diagnostic(file, line, Finding(rule, Severity.ERROR, field, message))


def show(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics to standard error, one line each."""
    console = Console(stderr=True, highlight=False)
    for found in diagnostics:
        severity = found.finding.severity
        line = Text.assemble(
            f"{found.file}:{found.line}: ", (f"{severity.value}:", STYLES[severity]), f" {found.text}"
        )
        console.print(line, soft_wrap=True)
