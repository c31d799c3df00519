"""Pure: what a Report says, as fields of the status."""

from datetime import datetime, timedelta

from finetune_api.curve import Curve
from finetune_api.report import Report, Stage
from finetune_api.status import (
    MAX_LISTED_CHECKPOINTS,
    Attempt,
    Checkpoint,
    FineTuneJobStatus,
    Progress,
    Subspaces,
)
from finetune_operator.status.evaluation import with_evaluation
from finetune_operator.status.rounding import rounded, significant

# Nobody trains for longer: a forecast beyond it, or before now, tells nothing, and may not even be a date.
LONGEST_FORECAST_SECONDS = 10 * 365 * 86400.0


def with_report(
    status: FineTuneJobStatus, report: Report, received: datetime, *, final: bool = False
) -> FineTuneJobStatus:
    """`status` with everything that a Report of its newest attempt tells.

    A `final` Report is one from a termination message: short of room, it may leave out plan, dataset, subspaces and the
    oldest checkpoints, so those that are known already are kept. Subspaces are also kept until a later attempt has come
    so far as to tell its own, and the curve until it has restored what it goes on from. A trainer that refuses to start
    has nothing to say but why, and that takes nothing back.
    """
    status = with_findings(status, report, final=final)
    checkpoints, progressed, curve = report.checkpoints, status.progress, status.curve
    refusal = final and report.stage is Stage.FAILED and report.metrics is None
    if refusal:
        checkpoints = status.checkpoints
    elif final:
        checkpoints = _left_out(status.checkpoints, checkpoints) + checkpoints
    if progressed is not None and _has_not_restored(report):
        # Of what an earlier attempt reached it cannot say yet how much it starts with.
        progressed = progressed.model_copy(update={"last_report_time": received})
    elif not refusal:
        total_steps = status.plan.total_steps if status.plan else None
        progressed = progress(report, received, total_steps=total_steps, known=status.progress)
        curve = _drawn(report.curve) if report.curve is not None else curve
    return status.model_copy(
        update={
            "progress": progressed,
            "curve": curve,
            "subspaces": _readable(report.subspaces) or status.subspaces,
            "evaluation": with_evaluation(status.evaluation, report, final=final),
            "checkpoints": _unique(checkpoints)[-MAX_LISTED_CHECKPOINTS:],
            "attempts": _with_resumption(status.attempts, report),
        }
    )


def with_findings(status: FineTuneJobStatus, report: Report, *, final: bool = False) -> FineTuneJobStatus:
    """`status` with what a Report tells of plan and data, be it of the preparation or of an attempt."""
    plan = report.plan or status.plan
    # The plan made before the data were known counts no steps. The trainer's, which does, may be cut short at the end:
    # it has lost all reasons and warnings then.
    cut_short = final and plan is not None and not plan.chosen and not plan.warnings
    if cut_short and status.plan is not None and status.plan.total_steps is not None:
        plan = status.plan
    return status.model_copy(
        update={
            "plan": plan,
            "dataset": report.dataset or status.dataset,
            "inputs": report.inputs or status.inputs,
            "evaluation_data": report.evaluation_data or status.evaluation_data,
        }
    )


def progress(
    report: Report, received: datetime, *, total_steps: int | None, known: Progress | None = None
) -> Progress:
    """How far training has come; numbers are rounded to what people read."""
    metrics = report.metrics
    # An attempt that has not made a step of its own stands where the checkpoint left it.
    step = metrics.step if metrics else report.resumed_from_step or 0
    initial_loss = report.initial_loss
    if initial_loss is None and known is not None:
        initial_loss = known.initial_loss
    remaining = report.seconds_remaining
    if remaining is not None and not 0 <= remaining <= LONGEST_FORECAST_SECONDS:
        remaining = None
    stopped_early = report.evaluation is not None and report.evaluation.stopped_early is not None
    finish = None
    if remaining is not None:
        finish = (received + timedelta(seconds=remaining)).replace(microsecond=0)
    return Progress(
        step=step,
        total_steps=total_steps,
        epoch=rounded(metrics.epoch, decimals=2) if metrics else None,
        percent=100 if stopped_early else percent(step, total_steps),
        summary=summary(step, total_steps, stopped_early=stopped_early),
        loss=significant(metrics.loss) if metrics else None,
        initial_loss=significant(initial_loss),
        learning_rate=significant(metrics.learning_rate) if metrics else None,
        grad_norm=significant(metrics.grad_norm) if metrics else None,
        tokens_per_second=rounded(metrics.tokens_per_second, decimals=1) if metrics else None,
        mfu=rounded(metrics.mfu, decimals=3) if metrics else None,
        samples_seen=metrics.samples_seen if metrics else None,
        peak_memory=metrics.peak_memory if metrics else None,
        estimated_finish=finish,
        remaining=duration(remaining) if remaining is not None else None,
        last_report_time=received,
    )


def last_step(attempt: Attempt, known: Progress | None) -> int | None:
    """The last step that an attempt did, of which `known` is what it reported last; None if it did none."""
    if known is None or (attempt.number > 1 and attempt.resumed_from_step is None):
        # It has not even found out where to go on: what is known is of the attempts before.
        return None
    return known.step if known.step > (attempt.resumed_from_step or 0) else None


def without_forecast(known: Progress | None) -> Progress | None:
    """Progress of a gang that is no longer training: what was reached stays, what was expected goes."""
    return known and known.model_copy(update={"estimated_finish": None, "remaining": None})


def decomposing(subspaces: Subspaces | None) -> str | None:
    """How far the decomposition of a model has come, in a sentence; None if it is done, or there is none."""
    if subspaces is None or subspaces.decomposed >= subspaces.of:
        return None
    return f"decomposing weight matrices: {subspaces.decomposed:,} of {subspaces.of:,}"


def percent(step: int, total_steps: int | None) -> int | None:
    """Steps done in percent, rounded down: 100 means done."""
    if total_steps is None or total_steps <= 0:
        return None
    return max(0, min(100, 100 * step // total_steps))


def summary(step: int, total_steps: int | None, *, stopped_early: bool = False) -> str:
    """Steps done, for people: '12/36 (33%)'."""
    done = percent(step, total_steps)
    if done is None:
        return str(step)
    if stopped_early:
        return f"{step}/{total_steps} (stopped early)"
    return f"{step}/{total_steps} ({done}%)"


def duration(seconds: float) -> str:
    """A duration by its two largest units, as kubectl writes ages: '3d4h', '2h51m', '4m10s', '12s'."""
    whole = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append((count, unit))
    return "".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"


def _readable(subspaces: Subspaces | None) -> Subspaces | None:
    if subspaces is None:
        return None
    changes = {
        "trainable_share": rounded(subspaces.trainable_share, decimals=4),
        "leak": significant(subspaces.leak, digits=2),
    }
    return subspaces.model_copy(update=changes)


def _drawn(curve: Curve) -> Curve | None:
    """A curve with numbers as exact as a chart can show them; None of one without a point."""
    if not curve.steps and not curve.validation_steps:
        return None
    return curve.model_copy(
        update={
            "loss": [significant(value) for value in curve.loss],
            "learning_rate": [significant(value) for value in curve.learning_rate],
            "tokens_per_second": [rounded(value, decimals=1) for value in curve.tokens_per_second],
            "validation_loss": [significant(value) for value in curve.validation_loss],
        }
    )


def _left_out(known: list[Checkpoint], named: list[Checkpoint]) -> list[Checkpoint]:
    # Models are kept for good, so an older one that is not named was left out; a resume state was pruned.
    oldest = min((checkpoint.time for checkpoint in named), default=None)
    names = {(checkpoint.kind, checkpoint.name) for checkpoint in named}
    return [
        checkpoint
        for checkpoint in known
        if checkpoint.kind == "weights"
        and (checkpoint.kind, checkpoint.name) not in names
        and (oldest is None or checkpoint.time <= oldest)
    ]


def _unique(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    # The status is a map by kind and name; the API server refuses one that names a checkpoint twice.
    return list({(checkpoint.kind, checkpoint.name): checkpoint for checkpoint in checkpoints}.values())


def _has_not_restored(report: Report) -> bool:
    early = report.stage in (Stage.STARTING, Stage.PREPARING, Stage.LOADING)
    return early and report.resumed_from_step is None


def _with_resumption(attempts: list[Attempt], report: Report) -> list[Attempt]:
    """The attempts, the newest of which goes on from what others left.

    Of an attempt whose end nobody heard it is the first sign of how far it had come.
    """
    resumed = report.resumed_from_step
    if not attempts or attempts[-1].number != report.attempt or resumed is None:
        return attempts
    *earlier, newest = attempts
    known = max((max(other.last_step or 0, other.resumed_from_step or 0) for other in earlier), default=0)
    if earlier and resumed > known:
        earlier[-1] = earlier[-1].model_copy(update={"last_step": resumed})
    return [*earlier, newest.model_copy(update={"resumed_from_step": resumed})]
