"""Pure: how a job stands once nothing happens any more, without what tells one life from another."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

from chaos.changes import Wire
from finetune_api.failure import CAUSES, ExitCode, Recovery

# Ends that are final at the first time, by the word for them.
FATAL = {cause.reason: code for code, cause in CAUSES.items() if cause.recovery is Recovery.FAIL}


def over(job: Wire, children: Sequence[Wire], taken: Collection[str]) -> Wire:
    """Of a job that is over, and of what belongs to it, but for objects of the kinds that a story has `taken` from it.

    When no pod has any more use for them, nobody makes them again.
    """
    status = job["status"]
    progress = status.get("progress") or {}
    numbers = {key: progress.get(key) for key in ("step", "totalSteps", "percent")}
    return _common(status) | {
        "output": status.get("output"),
        # What a failed job had reached is its own affair.
        "progress": numbers if status["phase"] == "Succeeded" else None,
        "end": (status.get("attempts") or [{}])[-1].get("reason"),
        "children": _children(job["metadata"]["name"], [c for c in children if c["kind"] not in taken]),
    }


def suspended(job: Wire, children: Sequence[Wire]) -> Wire:
    """Of a job that is suspended, and of the gangs that belong to it: none.

    How far it had come is its own affair, and so is what stays: the preparation that was done, what a gang would need.
    """
    gangs = [child for child in children if re.search(r"-\d+$", child["metadata"]["name"])]
    return _common(job["status"]) | {"children": _children(job["metadata"]["name"], gangs)}


def fatal_code(job: Wire) -> ExitCode | None:
    """With which exit code its last attempt has ended, if the job is over because of it alone."""
    attempts = job["status"].get("attempts") or [{}]
    return FATAL.get(attempts[-1].get("reason"))


def _common(status: Wire) -> Wire:
    return {
        "phase": status["phase"],
        "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
        "dataset": status.get("dataset"),
    }


def _children(job: str, children: Sequence[Wire]) -> Wire:
    """How many there are of each name, without the job's name and the attempt's number."""
    found: Counter[str] = Counter()
    for child in children:
        if child["kind"] == "ConfigMap":
            # There is one for each edit, and they stay.
            found["ConfigMap"] = 1
        else:
            name = re.sub(r"-\d+$", "-N", child["metadata"]["name"].removeprefix(job))
            found[f"{child['kind']} {name}"] += 1
    return dict(found)
