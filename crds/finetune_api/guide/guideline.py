"""What a rule of the guide is."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.facts import Finding, Severity
from finetune_api.guide.case import Case

Judge = Callable[[Case], str | None]


@dataclass(frozen=True)
class Guideline:
    """One rule of the guide."""

    id: str
    section: str
    """Where the guide says so."""
    severity: Severity
    field: str
    """Path of the field that it speaks about, from `spec` on."""
    statement: str
    """The rule, in a sentence or two."""
    judge: Judge
    """What to tell about this very job; None: nothing."""

    def __call__(self, case: Case) -> Finding | None:
        """What the rule finds."""
        message = self.judge(case)
        return None if message is None else Finding(self.id, self.severity, self.field, message)


def guideline(section: str, severity: Severity, field: str) -> Callable[[Judge], Guideline]:
    """Makes a rule of a function: its name is the rule's id, its docstring states the rule."""

    def made(judge: Judge) -> Guideline:
        name = getattr(judge, "__name__", "")
        statement = " ".join((inspect.getdoc(judge) or "").split())
        return Guideline(name.replace("_", "-"), section, severity, field, statement, judge)

    return made
