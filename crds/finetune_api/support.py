"""What can be planned, but not trained yet: the trainer of this version does not know it."""

from collections.abc import Iterator

from finetune_api.facts import Finding, Severity
from finetune_api.methods import Method
from finetune_api.spec import FineTuneJobSpec

RULE = "not-supported"
TRAINABLE_METHODS: frozenset[Method] = frozenset({"sft", "osft", "lora"})


def unsupported(spec: FineTuneJobSpec) -> list[Finding]:
    """Every part of a valid spec that the trainer of this version cannot carry out."""
    return [
        Finding(
            RULE, Severity.WARNING, field, f"this version plans {what}, and cannot train it yet: {remedy}"
        )
        for field, what, remedy in _parts(spec)
    ]


def _parts(spec: FineTuneJobSpec) -> Iterator[tuple[str, str, str]]:
    if spec.method not in TRAINABLE_METHODS:
        yield "spec.method", f"method {spec.method}", f"use method {' or '.join(sorted(TRAINABLE_METHODS))}"
