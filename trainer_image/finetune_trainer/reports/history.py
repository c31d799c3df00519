"""What earlier processes of this run left on the storage volume."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.checkpoint_scores import judged
from finetune_api.curve import Curve
from finetune_api.report import Report, Stage
from finetune_api.scores import Evaluated, EvaluationStatus, status_of
from finetune_api.status import MAX_LISTED_CHECKPOINTS, Checkpoint, Merged, Output, newest_state
from finetune_api.thinning import Course
from finetune_trainer import commit
from finetune_trainer.commit import Manifest
from finetune_trainer.reports import evaluations_file
from finetune_trainer.reports.metrics_file import last_record, records
from finetune_trainer.storage import Storage


def finished_output(storage: Storage) -> Output | None:
    """The run's result, if it is complete."""
    manifest = commit.read(storage.output, uid=storage.uid)
    return output_of(storage, manifest) if manifest else None


def output_of(storage: Storage, manifest: Manifest) -> Output:
    """The result as a Report names it."""
    return Output(
        path=storage.on_claim(storage.output),
        format=manifest.facts["format"],
        bytes=manifest.bytes,
        merged=_merged(storage, manifest),
    )


def _merged(storage: Storage, adapter: Manifest) -> Merged | None:
    """What the adapter was merged into, if that is complete."""
    manifest = commit.read(storage.merged, uid=storage.uid)
    # An adapter that was removed and trained anew is another one.
    if manifest is None or manifest.facts != merged_facts(adapter):
        return None
    return Merged(path=storage.on_claim(storage.merged), bytes=manifest.bytes)


def merged_facts(adapter: Manifest) -> dict[str, Any]:
    """What a merged model remembers of the adapter in it."""
    return {"adapter": {name: record.sha256 for name, record in adapter.files.items()}}


def evaluations(storage: Storage) -> list[Evaluated]:
    """The evaluations of the run, in the order of their steps."""
    return [record.evaluated for record in evaluations_file.records(storage)]


def evaluation(storage: Storage, *, up_to: int | None = None) -> EvaluationStatus | None:
    """What the evaluations of the run have shown: see shown_by."""
    return shown_by(evaluations(storage), storage, up_to=up_to)


def shown_by(
    found: Sequence[Evaluated], storage: Storage, *, up_to: int | None = None
) -> EvaluationStatus | None:
    """What all evaluations of the run have shown, and which one is that of its result, if it is complete.

    Of a run without a result only those `up_to` a step count.
    """
    if manifest := commit.read(storage.output, uid=storage.uid):
        facts = manifest.facts
        return status_of(found, stopped_early=facts.get("stoppedEarly"), final_step=facts.get("step"))
    return status_of([one for one in found if up_to is None or one.step <= up_to])


def course(storage: Storage, *, up_to: int | None = None) -> Course:
    """The steps of the run, `up_to` one of them, in points."""
    return Course(record for record in records(storage) if up_to is None or record.step <= up_to)


def curve(storage: Storage, *, up_to: int | None = None) -> Curve | None:
    """How training went, `up_to` a step; None of a run that has shown nothing so far."""
    known = [one for one in evaluations(storage) if up_to is None or one.step <= up_to]
    found = course(storage, up_to=up_to).curve(known)
    return None if found == Curve() else found


def listed(found: Sequence[Checkpoint], known: Sequence[Evaluated]) -> list[Checkpoint]:
    """Checkpoints as a Report lists them, oldest first: the newest, and the best one; with what evaluations showed."""
    marked = judged(sorted(found, key=lambda checkpoint: checkpoint.time), known)
    spare = max(0, len(marked) - MAX_LISTED_CHECKPOINTS)
    best_ones = [checkpoint for checkpoint in marked[:spare] if checkpoint.best]
    return [*best_ones, *marked[spare + len(best_ones) :]]


def checkpoints(storage: Storage, *, up_to: int | None = None) -> list[Checkpoint]:
    """The complete checkpoints that a Report lists. Evaluations count `up_to` a step."""
    found = [
        checkpoint_of(storage, path, manifest)
        for parent in (storage.checkpoints, storage.resume)
        for path in commit.visible(parent)
        if (manifest := commit.read(path, uid=storage.uid))
    ]
    known = [one for one in evaluations(storage) if up_to is None or one.step <= up_to]
    return listed(found, known)


def checkpoint_of(storage: Storage, path: Path, manifest: Manifest) -> Checkpoint:
    """A complete directory as a Report names it."""
    return Checkpoint(
        name=f"{path.parent.name}/{path.name}",
        step=manifest.facts["step"],
        epoch=manifest.facts["epoch"],
        kind=storage.kind_of(path),
        path=storage.on_claim(path),
        bytes=manifest.bytes,
        time=manifest.time,
    )


def last_report(storage: Storage, attempt: int) -> Report:
    """The newest Report of an attempt, and one that follows it; of one that made none, its first."""
    kept = _kept(storage)
    if kept is None or kept.attempt != attempt:
        return first_report(storage, attempt)
    step = kept.metrics.step if kept.metrics else 0
    newest = last_record(storage)
    # The file of Reports may be a second behind.
    if newest is not None and newest.attempt == attempt and newest.step > step:
        kept = kept.model_copy(update={"metrics": newest.metrics, "curve": curve(storage)})
        step = newest.step
    # A state may have been completed since, and an older one removed for its sake.
    found = checkpoints(storage, up_to=step)
    return kept.model_copy(update={"sequence": kept.sequence + 1, "checkpoints": found, "failure": None})


def first_report(storage: Storage, attempt: int) -> Report:
    """What the processes of an attempt tell when they start, be it for the first time or once more.

    They will go on from the newest state, so of the steps after it nothing is told any more.
    """
    kept = _kept(storage) or Report(attempt=attempt, sequence=-1, stage=Stage.STARTING)
    changes: dict[str, Any] = {
        "attempt": attempt,
        "sequence": kept.sequence + 1 if kept.attempt == attempt else 0,
        "stage": Stage.STARTING,
        "resumed_from_step": None,
        "preparation": None,
        "transfer": None,
        "seconds_remaining": None,
        "evaluation": evaluation(storage),
        "checkpoints": checkpoints(storage),
        "failure": None,
    }
    if finished_output(storage) is None:
        newest = newest_state(changes["checkpoints"])
        changes["evaluation"] = evaluation(storage, up_to=newest)
        changes["checkpoints"] = checkpoints(storage, up_to=newest)
        record = last_record(storage, up_to=newest)
        changes["metrics"] = record and record.metrics
        changes["curve"] = curve(storage, up_to=newest)
        changes["subspaces"] = None
    return kept.model_copy(update=changes)


def keep(storage: Storage, report: Report) -> None:
    """Leave a Report for later processes, in the place of the one before.

    It is not flushed to disk: were it lost with the machine, the next attempt would find out again what it says.
    """
    commit.replace_file(storage.report, report.to_json())


def _kept(storage: Storage) -> Report | None:
    try:
        return Report.model_validate_json(storage.report.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        # Empty, as machines that lost their power leave it, or one of another version.
        return None
