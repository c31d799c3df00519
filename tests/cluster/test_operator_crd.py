"""The API server and the models agree on what a FineTuneJob may be: what one takes, the other takes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.kube import FINETUNEJOBS, MERGE, Kube, Namespace, RefusedError
from finetune_operator import validation
from world import manifest

Wire = dict[str, Any]


def with_value(path: str, value: Any) -> Wire:
    """The valid manifest with one field replaced, or removed where the value is ...."""
    wire = copy.deepcopy(manifest())
    *parents, leaf = path.split(".")
    node = wire
    for parent in parents:
        node = node.setdefault(parent, {})
    if value is ...:
        node.pop(leaf, None)
    else:
        node[leaf] = value
    return wire


@pytest.fixture
def answer(kube: Kube) -> Callable[[Wire], str | None]:
    """What the API server says against a manifest; nothing when it would take it."""

    def ask(wire: Wire) -> str | None:
        path = FINETUNEJOBS.format(namespace="default")
        try:
            kube.request("POST", path, wire, dryRun="All", fieldValidation="Strict")
        except RefusedError as error:
            return str(error)
        return None

    return ask


H, R = "spec.hyperparameters.", "spec.resources."
ACCEPTED = [
    ("metadata.name", "a" * 50),
    ("metadata.name", "a-1"),
    *((f"{H}learningRate", value) for value in (1e-9, 1, 0.5)),
    *((f"{H}effectiveBatchSize", value) for value in (1, 65536)),
    *((f"{H}numEpochs", value) for value in (1, 1000)),
    *((f"{H}maxSeqLen", value) for value in (8, 1048576)),
    *((f"{H}maxTokensPerGpu", value) for value in (8, 16777216)),
    *((f"{H}lrScheduler", value) for value in ("constant", "cosine", "linear")),
    *((f"{H}warmupSteps", value) for value in (0, 1000000)),
    *((f"{H}weightDecay", value) for value in (0, 1)),
    *((f"{H}{beta}", value) for beta in ("beta1", "beta2") for value in (0, 0.999)),
    *((f"{H}eps", value) for value in (1e-12, 1)),
    *((f"{H}maxGradNorm", value) for value in (1e-3, 1000000)),
    *((f"{H}seed", value) for value in (0, 2147483647)),
    *((f"{H}maxSteps", value) for value in (1, 100000000)),
    ("spec.hyperparameters", {"maxSeqLen": 128, "maxTokensPerGpu": 128}),
    ("spec.hyperparameters", {}),
    ("spec.checkpoints", {}),
    ("spec.checkpoints.everyEpoch", False),
    *(("spec.suspend", value) for value in (False, True)),
    *(("spec.ttlSecondsAfterFinished", value) for value in (0, 2147483647)),
    ("spec.storage.path", "a/b..c/d"),
    ("spec.storage.path", "..."),
    ("spec.model.volume.path", "x" * 512),
    ("spec.storage.claimName", "a.b-c"),
    ("spec.storage.claimName", ...),
    ("spec.storage", ...),
    *((f"{R}nodes", value) for value in (1, 1024)),
    *((f"{R}gpusPerNode", value) for value in (0, 64)),
    *((f"{R}requests.cpu", value) for value in ("2", "500m", "1.5")),
    *((f"{R}sharedMemory", value) for value in ("16Gi", "1G")),
    (f"{R}requests", {}),
    ("spec.failurePolicy", {}),
    *(("spec.failurePolicy.maxRestarts", value) for value in (0, 1000)),
    *(("spec.failurePolicy.gracePeriodSeconds", value) for value in (10, 3600)),
]
REFUSED = [
    ("metadata.name", "a" * 51),
    ("metadata.name", "1a"),
    ("metadata.name", "a.b"),
    *((f"{H}learningRate", value) for value in (0, -1, 1.01, "fast")),
    *((f"{H}effectiveBatchSize", value) for value in (0, 65537, 1.5, "2")),
    *((f"{H}numEpochs", value) for value in (0, 1001)),
    *((f"{H}maxSeqLen", value) for value in (7, 1048577)),
    *((f"{H}maxTokensPerGpu", value) for value in (7, 16777217)),
    (f"{H}lrScheduler", "polynomial"),
    *((f"{H}warmupSteps", value) for value in (-1, 1000001)),
    *((f"{H}weightDecay", value) for value in (-0.1, 1.1)),
    *((f"{H}{beta}", value) for beta in ("beta1", "beta2") for value in (-0.1, 1)),
    *((f"{H}eps", value) for value in (0, 1.1)),
    *((f"{H}maxGradNorm", value) for value in (0, 1000001)),
    *((f"{H}seed", value) for value in (-1, 2147483648)),
    *((f"{H}maxSteps", value) for value in (0, 100000001)),
    ("spec.hyperparameters", {"maxSeqLen": 129, "maxTokensPerGpu": 128}),
    (f"{H}unknown", 1),
    ("spec.unknown", 1),
    ("spec.method", "magic"),
    ("spec.method", ...),
    ("spec.model", ...),
    ("spec.model.volume", ...),
    ("spec.dataset", ...),
    ("spec.dataset.train", ...),
    ("spec.storage.claimName", ""),
    ("spec.storage.claimName", "Upper"),
    ("spec.storage.claimName", "a" * 254),
    ("spec.storage.path", "/absolute"),
    ("spec.storage.path", "a/../b"),
    ("spec.storage.path", ".."),
    ("spec.storage.path", ""),
    ("spec.model.volume.path", "x" * 513),
    ("spec.checkpoints.everyEpoch", "yes"),
    *(("spec.suspend", value) for value in ("true", 1)),
    *(("spec.ttlSecondsAfterFinished", value) for value in (-1, 2147483648, "1h")),
    *((f"{R}nodes", value) for value in (0, 1025)),
    *((f"{R}gpusPerNode", value) for value in (-1, 65)),
    *((f"{R}requests.cpu", value) for value in ("two", "-1", "", 2)),
    (f"{R}sharedMemory", "16 Gi"),
    *(("spec.failurePolicy.maxRestarts", value) for value in (-1, 1001)),
    *(("spec.failurePolicy.gracePeriodSeconds", value) for value in (9, 3601)),
]


@pytest.mark.parametrize(("path", "value"), ACCEPTED)
def test_both_take_it(answer: Callable[[Wire], str | None], path: str, value: Any) -> None:
    wire = with_value(path, value)
    assert answer(wire) is None
    assert validation.read(wire)[1] == []


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_both_refuse_it_and_name_the_field(
    answer: Callable[[Wire], str | None], path: str, value: Any
) -> None:
    wire = with_value(path, value)
    said, problems = answer(wire), validation.read(wire)[1]
    assert said is not None
    assert problems
    field = path if value is not ... else path.rsplit(".", 1)[1]
    leaf = field.rsplit(".", 1)[-1]
    assert leaf in said
    assert any(leaf in problem for problem in problems)


# To the API server 1.0 is an integer; nobody writes that, and the models say so.
FRACTIONS = st.floats(-2, 2).filter(lambda value: not value.is_integer())
SIMPLE = st.booleans() | st.integers(-5, 5) | FRACTIONS | st.text("ab./-:9", max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([path for path, _ in ACCEPTED + REFUSED if path != "metadata.name"]), value=SIMPLE
)
def test_both_agree_on_anything(answer: Callable[[Wire], str | None], path: str, value: Any) -> None:
    wire = with_value(path, value)
    said, problems = answer(wire), validation.read(wire)[1]
    assert (said is None) == (not problems), (said, problems)


# Once it exists

OSFT: Wire = {"method": "osft", "osft": {"unfreezeRankRatio": 0.5}}


def begun(namespace: Namespace, *, phase: str = "Running", **spec: Any) -> None:
    """A job that the operator has begun to train."""
    namespace.submit(**spec)
    in_phase(namespace, phase)


def in_phase(namespace: Namespace, phase: str) -> None:
    """What the operator would write."""
    status = {"status": {"startTime": "2026-01-01T12:00:00Z", "phase": phase}}
    namespace.kube.request("PATCH", namespace.path(FINETUNEJOBS, "demo") + "/status", status, MERGE)


def edit(namespace: Namespace, change: Wire) -> str | None:
    try:
        namespace.patch(FINETUNEJOBS, "demo", {"spec": change})
    except RefusedError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("spec", "change"),
    [
        ({}, {"method": "osft"}),
        ({}, {"model": {"volume": {"path": "other"}}}),
        ({}, {"dataset": {"train": {"volume": {"path": "other.jsonl"}}}}),
        ({}, {"hyperparameters": {"learningRate": 1e-4}}),
        ({}, {"hyperparameters": {"seed": 1}}),
        ({}, {"storage": {"path": "elsewhere"}}),
        (OSFT, {"osft": {"unfreezeRankRatio": 0.4}}),
        (OSFT, {"osft": None}),
        ({"method": "osft"}, {"osft": {}}),
        ({"method": "lora"}, {"lora": {"r": 8}}),
    ],
)
@pytest.mark.parametrize("phase", ["Running", "Suspended"])
def test_what_decides_the_result_is_fixed_once_training_has_begun(
    namespace: Namespace, spec: Wire, change: Wire, phase: str
) -> None:
    begun(namespace, phase=phase, **spec)
    said = edit(namespace, change)
    assert said is not None
    assert f"spec.{next(iter(change))} is fixed once training has begun" in said


def test_until_then_everything_may_be_corrected(namespace: Namespace) -> None:
    # No operator begins to train this one.
    namespace.submit(method="lora", lora={"r": 16})
    for change in (
        {"lora": {"r": 8}},
        {"hyperparameters": {"learningRate": 1e-4}, "resources": {"nodes": 1}},
        {"model": {"volume": {"path": "other"}}, "storage": {"path": "elsewhere"}},
        {"method": "osft", "lora": None, "osft": {"unfreezeRankRatio": 0.5}},
    ):
        assert edit(namespace, change) is None


RESOURCES = [
    {"nodes": 4},
    {"gpusPerNode": 1, "gpuMemory": "80Gi"},
    {"requests": {"memory": "9Gi"}},
    {"sharedMemory": "2Gi"},
]


@pytest.mark.parametrize("change", RESOURCES)
def test_where_it_trains_may_change_only_while_nothing_of_it_runs(namespace: Namespace, change: Wire) -> None:
    begun(namespace)
    # To ask for it is not enough: its pods may still be ending.
    assert edit(namespace, {"suspend": True}) is None
    said = edit(namespace, {"resources": change})
    assert said is not None
    assert "spec.resources may change while the job is suspended" in said
    assert "wait for the condition Suspended" in said
    in_phase(namespace, "Suspended")
    assert edit(namespace, {"resources": change}) is None
    in_phase(namespace, "Pending")
    assert edit(namespace, {"resources": {"nodes": 7}}) is not None


def test_resources_may_change_together_with_the_word_to_go_on(namespace: Namespace) -> None:
    begun(namespace, phase="Suspended", suspend=True)
    assert edit(namespace, {"suspend": False, "resources": {"nodes": 3}}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"failurePolicy": {"maxRestarts": 7, "activeDeadlineSeconds": 99}},
        {"checkpoints": {"everyEpoch": False, "everyMinutes": 5}},
        {"tracking": {"mlflow": {"secretRef": {"name": "mlflow"}}}},
        {"suspend": True},
        {"ttlSecondsAfterFinished": 60},
    ],
)
@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_what_does_not_is_free(namespace: Namespace, change: Wire, phase: str) -> None:
    begun(namespace, phase=phase)
    assert edit(namespace, change) is None
    namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}}})


def test_a_job_that_nobody_has_looked_at_does_not_look_up_to_date(namespace: Namespace) -> None:
    assert namespace.submit("unseen")["status"]["observedGeneration"] == -1


def test_users_cannot_write_the_status_along_with_the_spec(namespace: Namespace) -> None:
    wire = manifest("forged") | {"status": {"phase": "Succeeded"}}
    assert "phase" not in namespace.create(FINETUNEJOBS, wire)["status"]


def test_what_is_left_out_is_filled_in_as_the_models_do(namespace: Namespace) -> None:
    found = namespace.submit("defaults", resources={})
    found.pop("status")
    read, problems = validation.read(found)
    stated, _ = validation.read(manifest("defaults", resources={}))
    assert problems == []
    assert read is not None
    assert stated is not None
    assert read.spec == stated.spec
