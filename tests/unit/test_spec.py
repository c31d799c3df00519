"""What a spec may say, as everyone but the API server reads it."""

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.spec import FineTuneJob


def manifest(**spec: Any) -> dict[str, Any]:
    """A valid FineTuneJob with parts of its spec replaced."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "demo", "namespace": "team-a", "labels": {"a": "b"}},
        "spec": {
            "method": "sft",
            "model": {"volume": {"claimName": "models", "path": "base"}},
            "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
            "storage": {"claimName": "runs"},
        }
        | spec,
    }


def errors(value: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        FineTuneJob.model_validate(value)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


def test_everything_optional_may_be_left_out() -> None:
    job = FineTuneJob.model_validate(manifest())
    assert job.storage_path == "demo"
    assert job.spec.resources.nodes == 1
    assert job.spec.hyperparameters.learning_rate is None


def test_an_unknown_field_is_an_error() -> None:
    [(field, _)] = errors(manifest(hyperparameters={"learningrate": 1e-5}))
    assert field == "spec.hyperparameters.learningrate"


@pytest.mark.parametrize(("value", "read"), [(2.0, 2), (2, 2), (None, None)])
def test_numbers_and_nulls_are_read_as_the_api_server_reads_them(value: object, read: int | None) -> None:
    hyperparameters = Hyperparameters.model_validate({"numEpochs": value, "beta1": None})
    assert repr(hyperparameters.num_epochs) == repr(read)
    assert hyperparameters.beta1 == 0.9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("numEpochs", "2"),
        ("numEpochs", 2.5),
        ("numEpochs", True),
        ("learningRate", "fast"),
        ("learningRate", "5e-6"),
        ("warmupSteps", "1e2"),
    ],
)
def test_other_types_are_not_converted(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate({field: value})


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "a/../../b", "..", ""])
def test_a_path_stays_inside_its_volume(path: str) -> None:
    [(field, _)] = errors(manifest(model={"volume": {"claimName": "models", "path": path}}))
    assert field == "spec.model.volume.path"


@pytest.mark.parametrize("path", ["a/b.jsonl", "..a/b", "a..b", "."])
def test_dots_in_names_are_no_escape(path: str) -> None:
    FineTuneJob.model_validate(manifest(model={"volume": {"claimName": "models", "path": path}}))


def test_the_longest_sample_must_fit_into_a_micro_batch() -> None:
    [(field, message)] = errors(manifest(hyperparameters={"maxSeqLen": 512, "maxTokensPerGpu": 256}))
    assert field == "spec.hyperparameters"
    assert "raise maxTokensPerGpu" in message


def test_sets_of_one_name_are_refused_by_that_name() -> None:
    data = {"volume": {"claimName": "data", "path": "test.jsonl"}}
    sets = [{"name": name} | data for name in ("old", "new", "old")]
    [(field, message)] = errors(manifest(evaluation={"sets": sets}))
    assert field == "spec.evaluation.sets"
    assert message.endswith("must not have two items with name 'old'")


@pytest.mark.parametrize("name", ["Demo", "1st", "a.b", "a-", "x" * 51])
def test_a_name_must_make_host_names(name: str) -> None:
    value = manifest()
    value["metadata"]["name"] = name
    assert errors(value)[0][0] == "metadata.name"
