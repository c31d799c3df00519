"""Pure: what is said to whoever creates or changes a FineTuneJob, before the API server takes it."""

from dataclasses import dataclass

from finetune_api.facts import Severity
from finetune_api.plan import study
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus
from finetune_operator import validation
from finetune_operator.observation.reading import Wire
from finetune_operator.tenancy import NO_POLICY, Administered, Policy, administered


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


def review(new: Wire, old: Wire | None = None, policy: Policy = NO_POLICY) -> Verdict:
    """Judge a FineTuneJob that is created, or changed from `old`, under an administrator's policy.

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
    found = _administered(new, job, policy)
    known = None if old is None else validation.read(old)[0]
    refused = () if old is None or known is None else _administered(old, known, policy).refusals
    if denials := tuple(refusal for refusal in found.refusals if refusal not in refused):
        return Verdict(denials=denials)
    findings = study(found.job.spec).findings
    advice = (str(finding) for finding in findings if finding.severity is not Severity.NOTE)
    return Verdict(warnings=(*found.refusals, *advice))


def _administered(wire: Wire, job: FineTuneJob, policy: Policy) -> Administered:
    status = FineTuneJobStatus.model_validate(wire.get("status") or {})
    return administered(job, status, policy)
