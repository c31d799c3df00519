"""Statuses that the API server's schema allows and no operator wrote: whatever they say, a decision can be made."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.crd import structural_schema
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.observation import reading
from finetune_operator.observation.observed import Observed
from finetune_operator.page import overview
from finetune_operator.page.job import job as page
from oddities import allowed
from world import INSTALLATION, MERGES, PUBLISH, START, manifest

Wire = dict[str, Any]

SCHEMA = structural_schema(FineTuneJobStatus)
# Their rules are in CEL, which the API server minds.
RULED = ("curve", "defaults")

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
