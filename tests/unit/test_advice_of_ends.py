"""What would help a job that ended so, in its own values."""

from typing import Any

import pytest

from finetune_api.failure import PodEnd, judge
from finetune_api.status import Attempt, FineTuneJobStatus, MemoryEstimate, MemoryParts, Plan, Progress
from finetune_api.units import GIB
from finetune_operator.lifecycle import advice
from world import PLAN, START, submitted

PARTS = MemoryParts(weights=1, gradients=1, optimizer=1, activations=1, logits=1, framework=1)


def said(end: PodEnd, plan: Plan | None = PLAN, peak: int | None = None, **spec: Any) -> str:
    """What is said of an attempt whose pod ended so."""
    job = submitted(**spec).job
    assert job is not None
    status = FineTuneJobStatus(
        attempts=[Attempt(number=3, start_time=START)],
        plan=plan,
        progress=None if peak is None else Progress(peak_memory=peak),
    )
    return judge([end], advice=advice.for_attempt(job, status)).message


def killed(**resources: Any) -> dict[str, Any]:
    return {"resources": {"nodes": 1, "gpusPerNode": 0} | resources}


OOM = PodEnd("demo-3-0", 137, oom_killed=True)
NEEDS_20 = PLAN.model_copy(
    update={"memory_per_gpu": MemoryEstimate(estimate=GIB, low=GIB, high=20 * GIB - 5, parts=PARTS)}
)


@pytest.mark.parametrize(
    ("plan", "peak", "resources", "words", "not_said"),
    [
        (NEEDS_20, None, {"requests": {"memory": "8Gi"}}, "memory: 8Gi. Raise it, to 20Gi at least", ""),
        (NEEDS_20, None, {"requests": {"memory": "32Gi"}}, "memory: 32Gi. Raise it, or lower", "20Gi"),
        (NEEDS_20, 22 * GIB, {}, "Set spec.resources.requests.memory, to 22Gi at least", ""),
        (PLAN, None, {}, "Set spec.resources.requests.memory, or lower", "at least"),
        # A GPU's memory tells nothing of the pod's own.
        (NEEDS_20, None, {"gpusPerNode": 1}, "Set spec.resources.requests.memory.", "maxTokensPerGpu"),
    ],
)
def test_the_memory_limit_that_was_met_is_named_and_what_would_do(
    plan: Plan, peak: int | None, resources: dict[str, Any], words: str, not_said: str
) -> None:
    message = said(OOM, plan, peak, **killed(**resources))
    assert words in message
    assert not not_said or not_said not in message


def test_the_knob_is_named_with_its_value() -> None:
    assert "lower spec.hyperparameters.maxTokensPerGpu (128 now)" in said(OOM, **killed())


def test_a_full_volume_is_named_with_what_the_run_takes() -> None:
    end = PodEnd("demo-3-0", 74, message="spec.storage: it is full")
    plan = PLAN.model_copy(update={"storage_bytes": 12 * GIB})
    assert said(end, plan) == (
        "demo-3-0: spec.storage: it is full. The whole run takes 12 GiB of claim runs (spec.storage.claimName)."
    )
    assert said(end) == "demo-3-0: spec.storage: it is full"


def test_what_is_not_explained_has_a_log_somewhere() -> None:
    words = "Its logs are in demo/logs/attempt-3 on claim runs."
    assert said(PodEnd("demo-3-0", 1, message="KeyError: 'x'")) == f"demo-3-0: KeyError: 'x'. {words}"
