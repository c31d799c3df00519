"""What holds for every FineTuneJob, right or wrong: no reader of it ever fails, and every fault has a field."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.model import ApiModel, Rule
from finetune_api.plan import study
from finetune_api.spec import FineTuneJobSpec
from finetune_operator import validation
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.observation.observed import Observed
from finetune_operator.observation.reading import subject
from generated import (
    FIELDS,
    RULE_BREAKERS,
    SCHEMA,
    Wire,
    families,
    job_of,
    jobs,
    one_field_at_a_time,
    replaced,
)
from world import INSTALLATION, START, manifest

# The same cases every time, and more of them with a profile of hypothesis that has more.
SETTINGS = settings(
    max_examples=settings().max_examples // 2,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
PATH = re.compile(r"spec(\.[^.\[\]: ]*|\[\d+\])*: ")
# What a user can do about it.
REMEDIES = re.compile(r"\b(remove|set|choose|keep|raise|lower|start|such as|must be|must not)\b")


def submitted(wire: Wire) -> Wire:
    """A FineTuneJob as the API server would return it, without its defaults."""
    metadata = wire["metadata"] | {"namespace": "team", "uid": "u", "generation": 1, "resourceVersion": "1"}
    return wire | {"metadata": metadata}


def operate(wire: Wire) -> None:
    """Whatever a FineTuneJob says, it is planned, or refused with the fields that are wrong."""
    found = subject(submitted(wire))
    assert (found.job is None) == bool(found.problems)
    assert all(PATH.match(problem) for problem in found.problems), found.problems
    outcome = reconcile(found, Observed(), START, INSTALLATION)
    assert outcome.status is not None
    assert not outcome.apply
    if found.job is not None:
        fields = [finding.field for finding in study(found.job.spec).findings]
        assert all(field.split(".")[0] == "spec" for field in fields), fields


def test_every_edge_of_every_field_is_planned_or_refused() -> None:
    for _, wire in one_field_at_a_time():
        operate(wire)


@SETTINGS
@given(family=families())
def test_anything_is_planned_or_refused(family: list[Wire]) -> None:
    for wire in family:
        operate(wire)


SIZES = st.sampled_from(["base", "smollm2-135m", "Qwen2.5-1.5B-Instruct", "models/Llama-3.1-8B", "llama-70b"])


@SETTINGS
@given(wire=jobs(), model=SIZES)
def test_models_of_every_size_are_planned(wire: Wire, model: str) -> None:
    operate(replaced(wire, ("model",), {"volume": {"claimName": "models", "path": model}}))


@SETTINGS
@given(wire=jobs())
def test_what_is_written_is_read_as_the_same(wire: Wire) -> None:
    job, _ = validation.read(wire)
    assert job is not None
    written = job.spec.to_wire()
    again, problems = validation.read(job_of(written))
    assert problems == []
    assert again is not None
    assert again.spec == job.spec
    assert again.spec.to_wire() == written


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    for path, schema in FIELDS:
        if schema["type"] in ("integer", "number"):
            [problem] = validation.read(replaced(manifest(), path, number))[1][:1]
            assert problem.startswith("spec.")


# Rules


def rules(model: type[ApiModel] = FineTuneJobSpec) -> Iterator[Rule]:
    """Every rule of the spec, those of its parts included."""
    yield from model.rules
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, ApiModel):
                yield from rules(part)


def in_schema(schemas: list[Wire]) -> set[tuple[str, str]]:
    return {
        (rule["rule"], rule["message"])
        for schema in schemas
        for rule in schema.get("x-kubernetes-validations", [])
    }


IN_CRD = in_schema([SCHEMA, *(schema for _, schema in FIELDS)])


def test_every_rule_is_in_the_crd_with_the_same_words() -> None:
    of_models = {(rule.cel, rule.message) for rule in rules()}
    assert len(of_models) >= 10
    assert of_models <= IN_CRD


def test_every_rule_of_the_crd_is_one_of_the_models_with_the_same_words() -> None:
    def broken(spec: Wire) -> str:
        [problem] = validation.read(manifest(**spec))[1]
        [message] = [message for _, message in IN_CRD if message in problem]
        return message

    assert sorted(map(broken, RULE_BREAKERS)) == sorted(message for _, message in IN_CRD)


@pytest.mark.parametrize(("cel", "message"), sorted(IN_CRD))
def test_every_rule_names_a_remedy(cel: str, message: str) -> None:
    assert REMEDIES.search(message), message


# Suggestions


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        (("hyperparameter",), "did you mean hyperparameters?"),
        (("lora", "load_in_4bit"), "did you mean loadIn4Bit?"),
        (("lora", "rank"), "there are r, alpha, dropout, "),
        (("osft", "unfreezeRatio"), "did you mean unfreezeRankRatio?"),
        (("hyperparameters", "pretraining", "blocksize"), "did you mean blockSize?"),
        (("dataset", "train", "volume", "claim"), "did you mean claimName?"),
        (("resources", "requests", "gpu"), "did you mean cpu?"),
    ],
)
def test_a_field_that_does_not_exist_is_answered_with_one_that_does(
    path: tuple[str, ...], suggestion: str
) -> None:
    problems = validation.read(replaced(manifest(), path, 1))[1]
    [problem] = [problem for problem in problems if "there is no such field" in problem]
    assert problem.startswith(f"spec.{'.'.join(path)}: there is no such field; {suggestion}")


@pytest.mark.parametrize("key", [1, 1.5, True, None, (1, 2)])
def test_a_key_that_is_no_text_is_a_fault_like_others(key: Any) -> None:
    for spec in ({key: 1}, {"lora": {key: 1}}, {"hyperparameters": {"pretraining": {key: None}}}):
        wire = manifest()
        wire["spec"] |= spec
        assert validation.read(wire)[1]
