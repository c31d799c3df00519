"""Pure: one FineTuneJob with all that its status tells, as the page shows it."""

from collections.abc import Iterable, Sequence
from typing import Any

from finetune_api.defaults import Defaults
from finetune_api.scores import Evaluated, EvaluationStatus
from finetune_api.spec import FineTuneJob
from finetune_api.status import Checkpoint, DatasetStatus, FineTuneJobStatus
from finetune_api.units import size
from finetune_operator import tenancy
from finetune_operator.observation import reading
from finetune_operator.observation.observed import Subject
from finetune_operator.observation.reading import Wire
from finetune_operator.page import words
from finetune_operator.page.charts import charts
from finetune_operator.page.overview import View
from finetune_operator.page.plan import plan
from finetune_operator.status import conditions
from finetune_operator.status.progress import duration

MAX_EVENTS = 100

_KINDS = {"weights": "weights", "resume": "state for restarts", "fullState": "full state"}


def job(wire: Wire, events: Iterable[Wire]) -> View:
    """A FineTuneJob as the API server has it, and the events about it."""
    found = reading.subject(wire)
    status, told = found.status, found.status.to_wire()
    ready = conditions.find(status.conditions, conditions.READY)
    return {
        "namespace": found.namespace,
        "name": found.name,
        "created": wire["metadata"]["creationTimestamp"],
        "phase": status.phase or "",
        "message": ready.message if ready else "Nobody has looked at the job yet.",
        "progress": _progress(status),
        "tiles": _tiles(status),
        "charts": charts(status),
        "facts": _facts(found),
        "evaluation": status.evaluation and _evaluation(status.evaluation),
        "checkpoints": [_checkpoint(one) for one in reversed(status.checkpoints)],
        "attempts": [_attempt(one) for one in reversed(told["attempts"])],
        "plan": status.plan and plan(status.plan, found.job, status.progress),
        "dataset": status.dataset and _dataset(status.dataset),
        "queue": _queue(status),
        "conditions": told["conditions"],
        "events": _events(events, found.uid),
        "spec": wire["spec"],
    }


def _progress(status: FineTuneJobStatus) -> View | None:
    known = status.progress
    if known is None:
        return None
    return {
        "percent": known.percent,
        "summary": known.summary,
        "remaining": known.remaining,
        "finish": words.moment(known.estimated_finish),
        "heard": words.moment(known.last_report_time),
    }


def _tiles(status: FineTuneJobStatus) -> list[View]:
    known = status.progress
    if known is None:
        return []
    loss = words.figure(known.loss)
    if known.initial_loss is not None and known.loss is not None:
        loss = f"{words.figure(known.initial_loss)} → {loss}"
    tiles = {
        "Loss": loss,
        "Validation loss": words.figure(status.evaluation.validation_loss if status.evaluation else None),
        "Epoch": words.figure(known.epoch, digits=3),
        "Learning rate": words.figure(known.learning_rate),
        "Gradient norm": words.figure(known.grad_norm),
        "Tokens/s": words.figure(known.tokens_per_second),
        "Utilization (MFU)": words.share(known.mfu),
        "Samples seen": words.count(known.samples_seen),
        "Peak memory": size(known.peak_memory) if known.peak_memory else words.NONE,
    }
    return [{"label": label, "value": text} for label, text in tiles.items() if text != words.NONE]


def _facts(found: Subject) -> list[View]:
    status = found.status
    facts: dict[str, str | None] = {}
    if found.job is not None:
        # With what the administrator has filled in, as far as the job has begun.
        facts = _asked(tenancy.filled(found.job, status.defaults or Defaults()))
    if status.output is not None:
        output = status.output
        facts["Result"] = f"{output.format} of {size(output.bytes)} in {output.path}"
        if output.merged is not None:
            facts["Merged model"] = f"{size(output.merged.bytes)} in {output.merged.path}"
    if status.publication is not None:
        there = status.publication.published
        standing = "complete" if there else status.publication.message or "not complete yet"
        facts["Published"] = f"{status.publication.target}: {standing}"
    times = {
        "Started": words.moment(status.start_time),
        "Completed": words.moment(status.completion_time),
    }
    return [
        *({"label": label, "value": value} for label, value in facts.items() if value),
        *({"label": label, "time": time} for label, time in times.items() if time),
    ]


def _asked(job: FineTuneJob) -> dict[str, str | None]:
    spec = job.spec
    gang, hardware = spec.resources, "without GPU"
    if gang.gpus_per_node:
        memory = f" of {gang.gpu_memory}" if gang.gpu_memory else ""
        each = " each" * (gang.nodes > 1)
        hardware = f"with {gang.gpus_per_node} GPU{'s' * (gang.gpus_per_node > 1)}{memory}{each}"
    pods = f"{gang.nodes} pod{'s' * (gang.nodes > 1)}"
    path = f'"{spec.storage.path}" on ' if spec.storage.path else ""
    return {
        "Method": spec.method,
        "Model": str(spec.model),
        "Training data": str(spec.dataset.train),
        "Hardware": f"{pods} {hardware}",
        "Storage": f'{path}claim "{spec.storage.claim_name}"' if spec.storage.claim_name else None,
    }


def _evaluation(found: EvaluationStatus) -> View:
    made = {
        "Base model": found.baseline,
        "Latest": found.latest,
        "Best": found.best,
        "Result": found.final,
    }
    known = {label: one for label, one in made.items() if one is not None}
    shown = found.final or found.latest
    return {
        "summary": found.summary,
        "stoppedEarly": found.stopped_early,
        "columns": [{"label": label, "step": one.step} for label, one in known.items()],
        "sets": [
            {
                "name": score.label,
                "losses": [words.figure(_loss(one, score.name)) for one in known.values()],
                "change": words.figure(score.change, digits=3),
                "improved": score.change is not None and score.change < 0,
                "perplexity": words.figure(score.perplexity),
                "tokenAccuracy": words.share(score.token_accuracy),
                "answered": words.share(score.answered),
                "tokens": words.count(score.tokens),
            }
            for score in (shown.sets if shown else ())
        ],
    }


def _loss(evaluated: Evaluated, name: str) -> float | None:
    return next((score.loss for score in evaluated.sets if score.name == name), None)


def _checkpoint(found: Checkpoint) -> View:
    return {
        "name": found.name,
        "kind": _KINDS[found.kind],
        "step": words.count(found.step),
        "epoch": words.figure(found.epoch, digits=3),
        "size": size(found.bytes),
        "path": found.path,
        "time": words.moment(found.time),
        "validationLoss": words.figure(found.validation_loss),
        "best": bool(found.best),
    }


def _attempt(wire: dict[str, Any]) -> View:
    resumed, last = wire.get("resumedFromStep"), wire.get("lastStep")
    return {
        "number": wire["number"],
        "start": wire["startTime"],
        "end": wire.get("endTime"),
        "from": f"step {resumed:,}" if resumed else "the beginning",
        "last": None if last is None else words.count(last),
        "reason": wire.get("reason"),
        "message": wire.get("message"),
        "log": wire.get("log"),
        "exitCode": wire.get("exitCode"),
        "node": wire.get("node"),
        "counted": wire.get("counted"),
    }


def _dataset(found: DatasetStatus) -> list[View]:
    lengths = found.lengths
    facts = {
        "Samples": words.count(found.samples),
        "Left out": found.left_out,
        "Tokens": words.count(found.tokens),
        "Tokens with loss": words.count(found.loss_tokens),
        "Lengths in tokens": lengths
        and f"half up to {lengths.p50:,}, 95 % up to {lengths.p95:,}, all up to {lengths.max:,}",
        "Duplicates": found.duplicates and words.count(found.duplicates),
        "Prepared data": found.path,
    }
    return [{"label": label, "value": value} for label, value in facts.items() if value]


def _queue(status: FineTuneJobStatus) -> list[View]:
    queue = status.queue
    if queue is None:
        return []
    facts = {
        "Queue": {"value": queue.name},
        "Waits since": {"time": words.moment(queue.waiting_since)} if queue.waiting_since else None,
        "Waited before": {"value": duration(queue.waited_seconds)} if queue.waited_seconds else None,
        "Preemptions": {"value": words.count(queue.preemptions)},
    }
    return [{"label": label} | value for label, value in facts.items() if value]


def _events(events: Iterable[Wire], uid: str) -> Sequence[View]:
    """Those of this very job, newest first: a namesake that was deleted has left its own."""
    own = [event for event in events if event["involvedObject"].get("uid") == uid]
    newest = sorted(own, key=lambda event: (reading.happened(event), event["metadata"]["name"]), reverse=True)
    return [
        {
            "type": event.get("type", ""),
            "reason": event.get("reason", ""),
            "message": event.get("message", ""),
            "count": event.get("count") or 1,
            "time": words.moment(reading.happened(event)),
        }
        for event in newest[:MAX_EVENTS]
    ]
