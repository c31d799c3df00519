"""Pure: what evaluations have shown, as status and as sentences."""

from collections.abc import Iterable

from finetune_api.evaluation import VALIDATION
from finetune_api.report import Report
from finetune_api.scores import Evaluated, EvaluationStatus, SetScore, summary
from finetune_operator.status.rounding import rounded, significant

EVALUATED = "Evaluated"
IMPROVED = "Improved"
NOT_IMPROVED = "NotImproved"


def with_evaluation(
    known: EvaluationStatus | None, report: Report, *, final: bool = False
) -> EvaluationStatus | None:
    """What is known of the evaluations, with what a Report tells of them.

    A `final` Report is one from a termination message: short of room, it may leave out some or all of it.
    """
    told = report.evaluation
    if told is None or told == EvaluationStatus():
        return known
    readable = told.model_copy(
        update={
            "validation_loss": significant(told.validation_loss),
            "baseline": _readable(told.baseline),
            "latest": _readable(told.latest),
            "best": _readable(told.best),
            "final": _readable(told.final),
        }
    )
    if not final or known is None:
        return readable
    missing = {
        field: getattr(known, field)
        for field in EvaluationStatus.model_fields
        if getattr(readable, field) is None
    }
    return readable.model_copy(update=missing)


def _readable(evaluated: Evaluated | None) -> Evaluated | None:
    return evaluated and evaluated.model_copy(update={"sets": [_score(score) for score in evaluated.sets]})


def _score(score: SetScore) -> SetScore:
    changes = {
        "loss": significant(score.loss),
        "perplexity": significant(score.perplexity),
        "token_accuracy": rounded(score.token_accuracy, decimals=4),
        "answered": rounded(score.answered, decimals=4),
        "change": significant(score.change, digits=3),
    }
    return score.model_copy(update=changes)


def outcome(status: EvaluationStatus | None) -> str | None:
    """What training has changed, in words: 'validation loss 2.31 → 1.87; general 2.05 → 2.07'."""
    if status is None or status.final is None:
        return None
    return summary(status.baseline, status.final)


def with_outcome(message: str, status: EvaluationStatus | None) -> str:
    """A message about a job that is done, with what training has changed, where that is known."""
    changed = outcome(status)
    return message if changed is None else f"{message}; {changed}"


def news(old: EvaluationStatus | None, new: EvaluationStatus | None) -> list[tuple[str, str]]:
    """What new evaluations show, as pairs of a word and a sentence.

    Of several between two statuses, the baseline, the best and the latest are told.
    """
    if new is None or new.latest is None:
        return []
    found = []
    if new.baseline is not None and (old is None or old.baseline is None):
        found.append(("Baseline", f"before training: {_scores(new, new.baseline)}"))
    known = [] if old is None else [old.best, old.latest]
    best, latest = new.best, new.latest
    if best is not None and 0 < best.step < latest.step and not _among(known, best):
        found.append(_showing(new, best))
    if latest.step > 0 and not _among(known, latest):
        found.append(_showing(new, latest))
    return found


def _among(known: Iterable[Evaluated | None], evaluated: Evaluated) -> bool:
    moment = (evaluated.step, evaluated.time)
    return any((one.step, one.time) == moment for one in known if one is not None)


def _showing(status: EvaluationStatus, evaluated: Evaluated) -> tuple[str, str]:
    words = f"after step {evaluated.step}: {_scores(status, evaluated)}"
    best = status.best
    if best is None or best.validation_loss is None:
        return EVALUATED, words
    if best.step == evaluated.step:
        return IMPROVED, f"{words}. The best so far"
    lowest = f"{best.validation_loss:.4g}"
    return NOT_IMPROVED, f"{words}. The best {VALIDATION} loss is {lowest}, after step {best.step}"


def _scores(status: EvaluationStatus, evaluated: Evaluated) -> str:
    return summary(status.baseline, evaluated) or "no set has a finite loss"
