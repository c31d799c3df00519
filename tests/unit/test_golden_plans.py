"""Plans of real models, as they were when somebody last looked at them: what changes them must be meant to.

`python tests/unit/test_golden_plans.py` writes them anew; look at the difference before you keep it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.architecture import from_config
from finetune_api.facts import DataFacts, ModelFacts
from finetune_api.plan import review
from finetune_api.recipe import Recipe
from finetune_api.spec import FineTuneJob
from finetune_api.status import Lengths

TESTS = Path(__file__).parent.parent
GOLDEN = TESTS / "golden"
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.1-8b", "phi-4", "qwen2.5-32b", "llama-3.1-70b")
METHODS = ("sft", "osft", "lora")
CASES = [(model, method) for model in MODELS for method in METHODS]
# Five thousand conversations, on one node of eight GPUs.
DATA = DataFacts(samples=5000, lengths=Lengths(p50=700, p95=2200, p99=3400, max=4000))
JOB = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "golden"},
    "spec": {
        "model": {"volume": {"claimName": "models", "path": "base"}},
        "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
        "storage": {"claimName": "runs"},
        "resources": {"nodes": 1, "gpusPerNode": 8, "gpuMemory": "80Gi"},
    },
}


def planned(model: str, method: str) -> dict[str, Any]:
    job = FineTuneJob.model_validate(JOB | {"spec": {"method": method, **JOB["spec"]}})  # type: ignore[dict-item]
    architecture = from_config(json.loads((TESTS / "configs" / f"{model}.json").read_text()))
    return review(Recipe.of_spec(job.spec), ModelFacts(architecture), DATA).plan.to_wire()


def file(model: str, method: str) -> Path:
    return GOLDEN / f"{model}-{method}.json"


@pytest.mark.parametrize(("model", "method"), CASES)
def test_the_plan_is_the_golden_one(model: str, method: str) -> None:
    assert planned(model, method) == json.loads(file(model, method).read_text())


def test_each_golden_plan_is_of_a_case() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {file(*case).name for case in CASES}


if __name__ == "__main__":
    for case in CASES:
        file(*case).write_text(json.dumps(planned(*case), indent=2) + "\n")
