"""Pure: what a cluster's Job controller makes of failed pods."""

from collections.abc import Sequence

from finetune_operator.objects.pods import Manifest


def given_up(spec: Manifest, exit_codes: Sequence[int]) -> str | None:
    """Why a batch/v1 Job with this spec fails whose pods ended so, as it would say itself; None if it goes on."""
    rules = [rule for rule in spec.get("podFailurePolicy", {}).get("rules", []) if "onExitCodes" in rule]
    charged = 0
    for code in exit_codes:
        actions = [rule["action"] for rule in rules if code in rule["onExitCodes"]["values"]]
        if "FailJob" in actions:
            return f"exit code {code} is one that is not tried again"
        if code != 0 and "Ignore" not in actions:
            charged += 1
    if charged > spec["backoffLimit"]:
        return "Job has reached the specified backoff limit"
    return None
