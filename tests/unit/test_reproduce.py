"""The FineTuneJob that repeats a run."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import reproduce
from finetune_api.facts import DataFacts
from finetune_api.inputs import Input
from finetune_api.plan import plan, study
from finetune_api.precedents import HALVED, Precedents, TokenBudget
from finetune_api.recipe import Recipe
from finetune_api.reproduce import Repetition, UnsettledError
from finetune_api.runconfig import Locations, run_config
from finetune_api.sources import DataSource, ModelSource
from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus, Lengths, Plan
from finetune_operator import validation
from finetune_operator.cli import output
from finetune_operator.cli.kubectl_yaml import KubectlLoader
from finetune_trainer.card import manifest as beside
from spellings import SPELLINGS
from unit.test_plan import model
from world import manifest

DATA = DataFacts(samples=2_000, lengths=Lengths(p50=300, p95=900, p99=1200, max=1500))
GPUS = {"nodes": 2, "gpusPerNode": 4, "gpuMemory": "80Gi"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UID = "2f6c1f1e-0000-4000-8000-000000000000"


def job(name: str = "demo", **spec: Any) -> FineTuneJob:
    wire = manifest(name, **spec)
    wire["metadata"] |= {"namespace": "team-a", "uid": UID}
    return FineTuneJob.model_validate(wire)


def planned(run: FineTuneJob, data: DataFacts | None = DATA) -> Plan:
    return study(run.spec, model("llama-3.1-8b"), data).plan


def inputs(**revisions: str | None) -> list[Input]:
    return [
        Input(
            name=name,
            origin=f"where {name} is",
            revision=revision,
            digest=f"sha256:digest-of-{name}",
            bytes=7,
        )
        for name, revision in revisions.items()
    ]


def repeated(
    run: FineTuneJob, plan: Plan | None = None, found: list[Input] | None = None
) -> tuple[Repetition, FineTuneJob]:
    """What repeats it, also as the API server takes it."""
    made = reproduce.of_job(run, FineTuneJobStatus(plan=plan or planned(run), inputs=found or []))
    return made, validation.parse(copy.deepcopy(made.job))


hyperparameters = st.fixed_dictionaries(
    {},
    optional={
        "learningRate": st.sampled_from([1e-4, 3.3333333333333335e-06]),
        "effectiveBatchSize": st.integers(1, 300),
        "numEpochs": st.integers(1, 5),
        "maxSeqLen": st.integers(1000, 2000),
        "maxTokensPerGpu": st.integers(2000, 9000),
        "maxSteps": st.integers(1, 100),
        "seed": st.integers(0, 10),
    },
)
methods = st.one_of(
    st.just({"method": "sft"}),
    st.fixed_dictionaries(
        {"method": st.just("osft")},
        optional={"osft": st.sampled_from([{"unfreezeRankRatio": 0.3}, {"targetPatterns": ["q_proj"]}])},
    ),
    st.fixed_dictionaries(
        {"method": st.just("lora")},
        optional={"lora": st.sampled_from([{"r": 8}, {"alpha": 7}, {"targetModules": ["attention"]}])},
    ),
)


@given(methods, hyperparameters, st.booleans())
def test_it_plans_the_same_and_leaves_nothing_to_choose(
    method: dict[str, Any], stated: dict[str, Any], documents: bool
) -> None:
    if documents and method["method"] != "lora":
        stated = {key: value for key, value in stated.items() if key != "maxSeqLen"}
        stated["pretraining"] = {"blockSize": 512}
    run = job(**method, hyperparameters=stated, resources=GPUS)
    before = planned(run)
    _, again = repeated(run, before)
    after = planned(again)
    assert after.chosen == []
    # What it advises depends on what is stated; so does whether a GPU is filled.
    others = {"chosen", "warnings"}
    assert after.model_dump(exclude=others) == before.model_dump(exclude=others)


@pytest.mark.parametrize(
    ("stated", "r", "alpha", "layers"),
    [({}, 16, 32, ["allLinear"]), ({"r": 8}, 8, 16, ["allLinear"]), ({"alpha": 7}, 16, 7, ["allLinear"])],
)
def test_adapters_are_stated_in_full(stated: dict[str, int], r: int, alpha: int, layers: list[str]) -> None:
    _, again = repeated(job(method="lora", lora=stated))
    assert again.spec.lora is not None
    assert (again.spec.lora.r, again.spec.lora.alpha, again.spec.lora.target_modules) == (r, alpha, layers)


@pytest.mark.parametrize(
    "spec",
    [
        {"hyperparameters": {"seed": 7, "warmupSteps": 3}, "resources": GPUS},
        {"method": "lora", "lora": {"useDora": True}, "checkpoints": {"everySteps": 5}},
        {
            "dataset": manifest()["spec"]["dataset"] | {"validationSplit": 0.1},
            "evaluation": {
                "earlyStopping": {"patience": 2},
                "sets": [{"name": "general", "volume": {"claimName": "data", "path": "general.jsonl"}}],
            },
            "checkpoints": {"deliverBest": True},
        },
    ],
)
def test_run_and_job_are_repeated_alike(spec: dict[str, Any]) -> None:
    run = job(**spec)
    found = inputs(model=None, train=None)
    locations = Locations(model="/m", data={"train": ["/t"]}, storage="/s")
    of_run = reproduce.of_run(run_config(run, locations, None), planned(run), found)
    of_job, _ = repeated(run, found=found)
    assert Recipe.of_spec(validation.parse(of_run.job).spec) == Recipe.of_spec(
        validation.parse(of_job.job).spec
    )
    decisive = ("method", "model", "dataset", "evaluation", "hyperparameters", "lora", "storage")
    for field in decisive:
        assert of_run.job["spec"].get(field) == of_job.job["spec"].get(field)
    assert of_run.job["metadata"] == of_job.job["metadata"] == {"name": "demo", "namespace": "team-a"}


def test_every_repository_is_pinned_to_its_commit() -> None:
    def hub(repo: str, **more: str) -> dict[str, Any]:
        return {"huggingFace": {"repo": repo, "revision": "main", **more}}

    run = job(
        model=hub("org/base"),
        dataset={"train": hub("org/data", path="a.jsonl"), "validation": hub("org/data", path="b.jsonl")},
        evaluation={"sets": [{"name": "general", **hub("org/other", path="c.jsonl")}]},
    )
    commits = {
        name: f"{number}{COMMIT[1:]}"
        for number, name in enumerate(("model", "train", "validation", "general"))
    }
    made, again = repeated(run, found=inputs(**commits))
    sources: dict[str, ModelSource | DataSource] = {"model": again.spec.model, **again.spec.data_sources}
    assert {
        name: found.hugging_face and found.hugging_face.revision for name, found in sources.items()
    } == commits
    # Nothing is left to tell of them.
    assert "digest-of" not in made.comment


def test_what_cannot_be_pinned_is_told_by_its_digest() -> None:
    made, _ = repeated(job(), found=inputs(model=None, train=None))
    assert "# - model: where model is: sha256:digest-of-model\n" in made.comment
    assert "# - train: where train is: sha256:digest-of-train\n" in made.comment


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\u2029"])
def test_nothing_ends_a_comment(end: str) -> None:
    strange = Input(name="model", origin=f"here{end}kind: Other", digest="d", bytes=1)
    made, _ = repeated(job(), found=[strange])
    assert yaml.safe_load(made.comment + "{}") == {}
    assert "kind: Other" in made.comment


def test_it_is_kept_apart_from_the_run_and_overwrites_nothing() -> None:
    run = job(
        storage={"claimName": "runs", "path": "team/./first/"},
        publish={"objectStore": {"uri": "s3://models/first"}},
        suspend=True,
        failurePolicy={"maxRestarts": 9},
    )
    made, again = repeated(run)
    assert again.storage_path == "team/first-repeated"
    assert (again.spec.publish, again.spec.suspend) == (None, False)
    assert "s3://models/first" in made.comment
    # The rest of what the user wants is his own.
    assert again.spec.failure_policy.max_restarts == 9


def test_the_longest_path_has_another_beside_it() -> None:
    _, again = repeated(job(storage={"claimName": "runs", "path": "a" * 512}))
    assert again.storage_path == "demo-repeated"


def test_a_lowered_budget_is_stated_as_far_as_a_spec_can() -> None:
    run = job(hyperparameters={"maxSeqLen": 1500, "maxTokensPerGpu": 6000}, resources=GPUS)

    def lowered(tokens: int) -> Plan:
        budget = TokenBudget(
            max_tokens_per_gpu=tokens,
            activation_checkpointing=True,
            accumulate_locally=False,
            reason=f"{HALVED} at step 3",
            world_size=8,
            on_gpu=True,
            gpu_memory=80 << 30,
        )
        return plan(Recipe.of_spec(run.spec), model("llama-3.1-8b"), DATA, Precedents(budget=budget))

    made, again = repeated(run, lowered(3000))
    assert again.spec.hyperparameters.max_tokens_per_gpu == 3000
    assert "came down" not in made.comment
    made, again = repeated(run, lowered(1000))
    assert again.spec.hyperparameters.max_tokens_per_gpu == 1500
    assert "came down to maxTokensPerGpu 1000" in made.comment


@pytest.mark.parametrize(
    ("spec", "has_plan", "data", "said"),
    [
        ({}, False, None, "no plan yet"),
        ({}, True, None, "data are not prepared yet"),
        (
            {"model": {"huggingFace": {"repo": "org/base"}}},
            True,
            DATA,
            "which commit of .* was used for model",
        ),
    ],
)
def test_a_run_that_has_not_come_so_far_is_not_repeated(
    spec: dict[str, Any], has_plan: bool, data: DataFacts | None, said: str
) -> None:
    run = job(**spec)
    status = FineTuneJobStatus(plan=planned(run, data) if has_plan else None)
    with pytest.raises(UnsettledError, match=said):
        reproduce.of_job(run, status)


@pytest.mark.parametrize("write", [beside.to_yaml, lambda made: output.to_yaml([made.job])])
def test_kubectl_reads_what_was_written(write: Callable[[Repetition], str]) -> None:
    # Some are texts that look like something else, as a claim's name may.
    values = [*SPELLINGS, 1e-5, 3.3333333333333335e-06, 1e22, 2.0, 7, True, None, "漢字", "a: b", "x\ny"]
    job = {"spec": {"values": values, "y": 1, "1e5": 2}}
    assert repr(yaml.load(write(Repetition(job, ["how"])), KubectlLoader)) == repr(job)
