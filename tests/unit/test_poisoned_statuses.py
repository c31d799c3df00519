"""Statuses that the API server's schema allows and no operator wrote: whatever they say, a decision can be made."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.crd import structural_schema
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator import reading
from finetune_operator.observed import Observed
from finetune_operator.page import overview
from finetune_operator.page.job import job as page
from finetune_operator.reconcile import reconcile
from world import INSTALLATION, MERGES, PUBLISH, START, manifest

Wire = dict[str, Any]

SCHEMA = structural_schema(FineTuneJobStatus)
# Their rules are in CEL, which the API server minds.
RULED = ("curve", "defaults")
TIMES = (
    *(
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ),
    *("2026-01-01T12:00:00Z", "2026-01-01T12:00:05.123456+14:00"),
)


def allowed(schema: Wire) -> st.SearchStrategy[Any]:
    """Values that a structural schema allows, the odd ones first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return st.sampled_from([low, high, *(near for near in (-2, -1, 0, 1, 2) if low <= near <= high)])
        case "number":
            return st.sampled_from([0.0, 1.0, -1.5, 1e308, -1e308, 5e-324])
        case "string" if schema.get("format") == "date-time":
            return st.sampled_from(TIMES)
        case "string":
            least, most = schema.get("minLength", 0), min(schema.get("maxLength", 5), 5)
            if pattern := schema.get("pattern"):
                return st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= 63)
            return st.text("aé\x00\n漢😀", min_size=least, max_size=max(least, most))
        case "array":
            return st.lists(allowed(schema["items"]), max_size=2)
    properties = {name: allowed(child) for name, child in schema.get("properties", {}).items()}
    required = {name: properties.pop(name) for name in schema.get("required", [])}
    return st.fixed_dictionaries(required, optional=properties)


FIELDS = {name: child for name, child in SCHEMA["properties"].items() if name not in RULED}
STATUSES = allowed({"type": "object", "properties": FIELDS})


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    status=STATUSES,
    phase=st.sampled_from(Phase),
    suspend=st.booleans(),
    spec=st.sampled_from([{}, MERGES, PUBLISH]),
)
def test_a_decision_can_be_made(status: Wire, phase: Phase, suspend: bool, spec: Wire) -> None:
    wire = manifest(**spec, suspend=suspend)
    wire["metadata"] |= {
        "namespace": "team",
        "uid": "1",
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T11:00:00Z",
    }
    wire["status"] = {"startTime": "2026-01-01T11:00:00Z"} | status | {"phase": phase.value}
    outcome = reconcile(reading.subject(wire), Observed(), START, INSTALLATION)
    # What is made of a status is made by this operator's means: its own image, or the spec's.
    for made in outcome.apply:
        if made["kind"] == "Job":
            [container] = made["spec"]["template"]["spec"]["containers"]
            assert container["image"] == INSTALLATION.trainer_image
    page(wire, [])
    overview.row(wire)
