"""Pure: FineTuneJobs as rows of the list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.status import Phase
from finetune_operator.observation.reading import Wire
from finetune_operator.page import words

# What is beyond them is counted: nobody reads more, and every open tab asks for all of them again and again.
MAX_ROWS = 500

_OVER = {known.value for known in Phase if known.is_terminal}

View = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A FineTuneJob of the list."""

    namespace: str
    is_over: bool
    created: str
    view: View


def row(wire: Wire) -> Row:
    """A FineTuneJob as the API server has it, accepted or not: what kubectl prints of it, and how its loss went."""
    metadata, spec, status = wire["metadata"], wire["spec"], wire.get("status", {})
    progress, phase = status.get("progress", {}), status.get("phase", "")
    messages = {one["type"]: one.get("message", "") for one in status.get("conditions", ())}
    view = {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "created": metadata["creationTimestamp"],
        "method": spec["method"],
        "model": _model(spec["model"]),
        "phase": phase,
        "message": messages.get("Ready", ""),
        "percent": progress.get("percent"),
        "progress": progress.get("summary", ""),
        "loss": words.figure(progress.get("loss")),
        "validation": words.figure(status.get("evaluation", {}).get("validationLoss")),
        "tokensPerSecond": words.figure(progress.get("tokensPerSecond")),
        "remaining": progress.get("remaining", words.NONE),
        "restarts": words.count(status.get("restarts", 0)),
        "curve": status.get("curve", {}).get("loss", []),
    }
    return Row(metadata["namespace"], phase in _OVER, metadata["creationTimestamp"], view)


def overview(rows: Sequence[Row], namespace: str | None) -> View:
    """The list, of one namespace or of all: what is not over stands first, and of that the newest."""
    shown = [row for row in rows if namespace in (None, row.namespace)]
    by_name = sorted(shown, key=lambda row: (row.view["name"], row.namespace))
    newest = sorted(by_name, key=lambda row: row.created, reverse=True)
    ordered = sorted(newest, key=lambda row: row.is_over)
    return {
        "namespaces": sorted({row.namespace for row in rows}),
        "jobs": [row.view for row in ordered[:MAX_ROWS]],
        "more": max(0, len(ordered) - MAX_ROWS),
    }


def _model(source: Wire) -> str:
    # Not as the type has it, whose rules cost more than a list of thousands is worth.
    hub, volume, image = source.get("huggingFace"), source.get("volume"), source.get("image")
    found: str = (hub or {}).get("repo") or (volume or {}).get("path") or (image or {}).get("reference", "")
    return found.partition("@")[0]
