"""Pure: how a job stands in the end, without what tells one life from another."""

import re
from collections import Counter
from collections.abc import Sequence

from chaos.changes import Wire
from finetune_api.failure import CAUSES, ExitCode, Recovery

# Ends that are final at the first time, by the word for them.
FATAL = {cause.reason: code for code, cause in CAUSES.items() if cause.recovery is Recovery.FAIL}


def masked(job: Wire, children: Sequence[Wire]) -> Wire:
    """Of a job that is over, and of what belongs to it."""
    status = job["status"]
    succeeded = status["phase"] == "Succeeded"
    progress = status.get("progress") or {}
    return {
        "phase": status["phase"],
        "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
        "output": status.get("output"),
        "dataset": status.get("dataset"),
        # What a failed job had reached is its own affair.
        "progress": {key: progress.get(key) for key in ("step", "totalSteps", "percent")}
        if succeeded
        else None,
        "end": (status.get("attempts") or [{}])[-1].get("reason"),
        "children": _children(job["metadata"]["name"], children),
    }


def fatal_code(job: Wire) -> ExitCode | None:
    """With which exit code its last attempt has ended, if the job is over because of it alone."""
    attempts = job["status"].get("attempts") or [{}]
    return FATAL.get(attempts[-1].get("reason"))


def _children(job: str, children: Sequence[Wire]) -> Wire:
    """How many there are of each name, without the job's name and the attempt's number."""
    found: Counter[str] = Counter()
    for child in children:
        if child["kind"] == "ConfigMap":
            # There is one for each edit, and they stay.
            found["ConfigMap"] = 1
        elif child["kind"] not in ("Service", "NetworkPolicy"):
            # These a story may have taken away when no pod had any more use for them.
            name = re.sub(r"-\d+$", "-N", child["metadata"]["name"].removeprefix(job))
            found[f"{child['kind']} {name}"] += 1
    return dict(found)
