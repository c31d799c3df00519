"""The examples are what they say: valid, without an unwanted word from the guide, and fitting their GPUs."""

import json
import re
from pathlib import Path

import pytest

from finetune_api.architecture import from_config
from finetune_api.facts import ModelFacts, Severity
from finetune_api.plan import Study, study
from finetune_operator.cli import manifests

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
# The shapes of the models that the examples name.
CONFIGS = {
    "smollm2-135m-instruct": "smollm2-135m",
    "qwen2.5-1.5b-instruct": "qwen2.5-1.5b",
    "Qwen/Qwen2.5-1.5B-Instruct": "qwen2.5-1.5b",
    "llama-3.1-8b-instruct": "llama-3.1-8b",
    "llama-3.1-8b": "llama-3.1-8b",
    "llama-3.1-70b-instruct": "llama-3.1-70b",
}
OF_THE_DEMO = {"sft", "osft-cpu", "lora-cpu", "qlora-cpu", "evaluated-cpu"}


def studied(path: Path, *, exactly: bool) -> Study:
    [job] = manifests.read_valid([str(path)])
    spec = job.spec
    if not exactly:
        return study(spec)
    config = CONFIGS[spec.model.label]
    architecture = from_config(json.loads((ROOT / "tests" / "configs" / f"{config}.json").read_text()))
    return study(spec, ModelFacts(architecture))


@pytest.mark.parametrize("exactly", [True, False], ids=["by config.json", "by name"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_valid_fits_and_follows_the_guide(path: Path, exactly: bool) -> None:
    found = studied(path, exactly=exactly)
    # They must show something within minutes, and say so themselves.
    expected = {"learning-rate-high"} if path.stem in OF_THE_DEMO else set()
    rules = {finding.rule for finding in found.findings if finding.severity is not Severity.NOTE}
    assert rules == expected
    assert found.remedies == []
    assert found.plan.memory_per_gpu is not None


def test_there_is_one_for_each_method_and_size() -> None:
    names = {path.stem for path in EXAMPLES}
    assert {f"{method}-{size}" for method in ("sft", "osft", "lora") for size in ("1b", "8b", "70b")} < names


def test_the_list_of_examples_is_complete() -> None:
    readme = (ROOT / "examples" / "README.md").read_text()
    assert set(re.findall(r"\((\S+)\.yaml\)", readme)) == {path.stem for path in EXAMPLES}
