"""Pure: what is said to whoever creates or changes a FineTuneJob, before the API server takes it."""

from dataclasses import dataclass

from finetune_api.facts import Severity
from finetune_api.plan import study
from finetune_operator import validation
from finetune_operator.reading import Wire


@dataclass(frozen=True)
class Verdict:
    """What to answer."""

    denials: tuple[str, ...] = ()
    """All that is wrong with the spec; empty if it may pass."""
    warnings: tuple[str, ...] = ()
    """What to print to whoever asked."""

    @property
    def refusal(self) -> str:
        """The denials as kubectl prints those of the API server: one after the other, several as a list."""
        if len(self.denials) == 1:
            return self.denials[0]
        return "".join(f"\n* {denial}" for denial in self.denials)


def review(new: Wire, old: Wire | None = None) -> Verdict:
    """Judge a FineTuneJob that is created, or changed from `old`.

    Only faults that a change brings in are denied: with a fault that was there before, under the rules of an older
    version or while nobody checked, a job must stay editable.
    """
    if old is not None and new.get("spec") == old.get("spec"):
        return Verdict()
    job, problems = validation.read(new)
    if job is None:
        before = [] if old is None else validation.read(old)[1]
        if set(problems) <= set(before):
            return Verdict(warnings=tuple(problems))
        return Verdict(denials=tuple(problems))
    findings = study(job.spec).findings
    return Verdict(warnings=tuple(str(found) for found in findings if found.severity is not Severity.NOTE))
