"""What a plan says, and that it keeps to it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.architecture import from_config, typical
from finetune_api.facts import ASSUMED_LENGTH, DataFacts, ModelFacts, Severity
from finetune_api.memory import Mode, memory
from finetune_api.plan import model_by_name, plan, remedies_after, review, study
from finetune_api.precedents import HALVED, Precedents, TokenBudget
from finetune_api.recipe import USABLE_GPU_MEMORY, Recipe
from finetune_api.remedies import remedies
from finetune_api.spec import FineTuneJob
from finetune_api.status import Choice, Lengths, MicroBatches, Plan
from finetune_api.units import GIB
from finetune_trainer.packing import pack
from world import manifest

CONFIGS = Path(__file__).parent.parent / "configs"
LENGTHS = Lengths(p50=300, p95=900, p99=1200, max=1500)


def recipe(**spec: Any) -> Recipe:
    """The recipe of a job of two CPU pods, changed as told."""
    return Recipe.of_spec(FineTuneJob.model_validate(manifest(**spec)).spec)


def gpus(nodes: int = 1, per_node: int = 8, memory: str | None = "80Gi") -> dict[str, Any]:
    return {"nodes": nodes, "gpusPerNode": per_node} | ({"gpuMemory": memory} if memory else {})


def model(name: str) -> ModelFacts:
    return ModelFacts(from_config(json.loads((CONFIGS / f"{name}.json").read_text())))


def choices(planned: Plan) -> dict[str, float]:
    return {choice.field: choice.value for choice in planned.chosen}


def test_what_is_stated_is_used_exactly_and_not_explained() -> None:
    stated = {
        "learningRate": 1e-4,
        "effectiveBatchSize": 7,
        "numEpochs": 5,
        "maxSeqLen": 100,
        "maxTokensPerGpu": 200,
    }
    result = plan(recipe(hyperparameters=stated), data=DataFacts(samples=70))
    assert (result.learning_rate, result.effective_batch_size, result.num_epochs) == (1e-4, 7, 5)
    assert (result.max_seq_len, result.max_tokens_per_gpu) == (100, 200)
    assert (result.steps_per_epoch, result.total_steps) == (10, 50)
    assert result.chosen == []


def test_what_is_open_is_chosen_with_a_reason_once_it_can_be() -> None:
    result = plan(recipe(), data=DataFacts(samples=500, lengths=LENGTHS))
    assert choices(result) == {
        "spec.hyperparameters.learningRate": 5e-6,
        "spec.hyperparameters.effectiveBatchSize": 32,
        "spec.hyperparameters.numEpochs": 2,
        "spec.hyperparameters.maxSeqLen": 1500,
        "spec.hyperparameters.maxTokensPerGpu": 1500,
    }
    assert all(choice.reason for choice in result.chosen)


def test_what_is_not_known_stays_open() -> None:
    result = plan(recipe())
    assert result.to_wire().keys() == {
        "learningRate",
        "numEpochs",
        "activationCheckpointing",
        "accumulateLocally",
        "worldSize",
        "chosen",
        "assumptions",
        "warnings",
    }
    assert result.assumptions == []


def test_the_knobs_of_a_method_are_chosen_for_that_method_alone() -> None:
    assert "spec.osft.unfreezeRankRatio" not in choices(plan(recipe()))
    assert choices(plan(recipe(method="osft")))["spec.osft.unfreezeRankRatio"] == 0.5
    assert choices(plan(recipe(method="lora", lora={"r": 8}))).get("spec.lora.alpha") == 16


def test_the_last_short_batch_counts_as_a_step() -> None:
    stated = {"effectiveBatchSize": 32, "numEpochs": 3}
    result = plan(recipe(hyperparameters=stated), data=DataFacts(samples=65))
    assert (result.steps_per_epoch, result.total_steps) == (3, 9)


@pytest.mark.parametrize(("max_steps", "total"), [(5, 5), (100, 9)])
def test_max_steps_ends_the_run_early_and_never_prolongs_it(max_steps: int, total: int) -> None:
    stated = {"effectiveBatchSize": 32, "numEpochs": 3, "maxSteps": max_steps}
    assert plan(recipe(hyperparameters=stated), data=DataFacts(samples=65)).total_steps == total


def test_a_model_of_unknown_shape_is_taken_for_what_its_name_says_and_that_is_said() -> None:
    spec = FineTuneJob.model_validate(
        manifest(model={"volume": {"claimName": "m", "path": "llama-3.3-70b-instruct"}})
    ).spec
    facts = model_by_name(spec)
    assert facts is not None
    assert facts.architecture.parameters == pytest.approx(70e9, rel=0.1)
    assumptions = study(spec).plan.assumptions
    assert any(
        "70" in said and "judging by its name 'llama-3.3-70b-instruct'" in said for said in assumptions
    )


@pytest.mark.parametrize(
    "source",
    [
        {"volume": {"claimName": "models", "path": "qwen2.5-1.5b"}},
        {"huggingFace": {"repo": "Qwen/Qwen2.5-1.5B-Instruct"}},
        {"image": {"reference": f"registry.example/qwen2.5-1.5b:2@sha256:{'7b' * 32}"}},
        {"image": {"reference": "registry.example/models:2", "path": "qwen2.5-1.5b"}},
    ],
)
def test_wherever_a_model_comes_from_its_name_may_tell_its_size(source: dict[str, Any]) -> None:
    named = model_by_name(FineTuneJob.model_validate(manifest(model=source)).spec)
    assert named is not None
    assert round(named.architecture.parameters / 1e9, 1) == 1.5


@pytest.mark.parametrize(("method", "field"), [("osft", "targetPatterns"), ("lora", "targetModules")])
def test_patterns_are_not_searched_for_in_a_model_that_nobody_knows(method: str, field: str) -> None:
    """The operator studies everybody's jobs, and this one would keep it busy for hours."""
    model = {"volume": {"claimName": "m", "path": "llama-3.1-8b"}}

    def need(knobs: dict[str, Any]) -> Any:
        spec: dict[str, Any] = {"method": method, "model": model, method: knobs}
        return study(FineTuneJob.model_validate(manifest(**spec)).spec).plan

    assert need({field: [r"(([a-z0-9_.])+)+ "]}) == need({})


def test_names_of_layers_count_even_in_a_model_that_nobody_knows() -> None:
    guessed = ModelFacts(typical(8 * 10**9), guessed_from="llama-8b")
    one, some, every = (
        review(recipe(method="lora", lora={"targetModules": [modules]}), guessed, None).plan
        for modules in ("q_proj", "attention", "allLinear")
    )
    assert one.trainable_parameters is not None
    assert some.trainable_parameters is not None
    assert every.trainable_parameters is not None
    assert one.trainable_parameters < some.trainable_parameters < every.trainable_parameters


def test_the_length_that_memory_is_planned_for_is_said_where_nothing_tells_it() -> None:
    result = plan(recipe(), model("llama-3.1-8b"))
    assert result.max_seq_len is None
    assert [f"{ASSUMED_LENGTH:,} tokens" in said for said in result.assumptions] == [True]
    assert plan(recipe(hyperparameters={"maxSeqLen": 512}), model("llama-3.1-8b")).assumptions == []


def test_blocks_are_samples_of_one_length() -> None:
    stated = {"pretraining": {"blockSize": 512}, "effectiveBatchSize": 16, "maxTokensPerGpu": 1024}
    result = plan(recipe(hyperparameters=stated))
    assert result.max_seq_len == 512
    assert result.micro_batches_per_step == MicroBatches(min=1, max=4)


def test_gpu_memory_is_filled_as_far_as_it_is_safe() -> None:
    one_node = recipe(resources=gpus(), hyperparameters={"maxSeqLen": 4096, "effectiveBatchSize": 1024})
    facts = model("llama-3.1-8b")
    result = plan(one_node, facts)
    assert result.max_tokens_per_gpu is not None
    assert result.memory_per_gpu is not None
    assert result.max_tokens_per_gpu > 4096
    limit = USABLE_GPU_MEMORY * 80 * GIB
    assert result.memory_per_gpu.estimate <= limit
    more = result.max_tokens_per_gpu + 256
    beyond = memory(one_node, facts.architecture, mode(result), tokens=more, longest=4096)
    assert beyond.estimate > limit


def mode(planned: Plan) -> Mode:
    assert planned.activation_checkpointing is not None
    assert planned.accumulate_locally is not None
    return Mode(planned.activation_checkpointing, planned.accumulate_locally)


KEPT, KEPT_AND_LOCAL = Mode(False, False), Mode(False, True)
RECOMPUTED, RECOMPUTED_AND_LOCAL = Mode(True, False), Mode(True, True)


@pytest.mark.parametrize(
    ("name", "resources", "expected"),
    [
        ("qwen2.5-0.5b", gpus(), KEPT_AND_LOCAL),
        # Whole gradients would leave no room for activations.
        ("llama-3.1-8b", gpus(), KEPT),
        # Some 6,000 tokens fit with their activations: enough within a node, too few between nodes.
        ("llama-3.1-8b", gpus(nodes=2, memory="70Gi"), RECOMPUTED),
        ("phi-4", gpus(), RECOMPUTED),
        ("phi-4", gpus(memory="141Gi"), KEPT),
        # Nothing fits.
        ("llama-3.1-70b", gpus(), RECOMPUTED),
        ("llama-3.1-70b", gpus(nodes=3), RECOMPUTED),
        # A process alone has nothing to exchange.
        ("qwen2.5-0.5b", gpus(per_node=1), KEPT),
        ("llama-3.1-8b", gpus(memory=None), RECOMPUTED),
        ("llama-3.1-8b", {"nodes": 2, "gpusPerNode": 0}, KEPT_AND_LOCAL),
        ("llama-3.1-8b", {"nodes": 1, "gpusPerNode": 0}, KEPT),
    ],
)
def test_steps_are_carried_out_in_the_fastest_way_that_fits(
    name: str, resources: dict[str, Any], expected: Mode
) -> None:
    stated = {"maxSeqLen": 4000, "effectiveBatchSize": 128}
    assert mode(plan(recipe(resources=resources, hyperparameters=stated), model(name))) == expected


def test_a_guessed_size_is_planned_for_with_the_least_memory() -> None:
    guessed = ModelFacts(typical(5 * 10**8), guessed_from="qwen-0.5b")
    assert mode(plan(recipe(resources=gpus(), hyperparameters={"maxSeqLen": 512}), guessed)) == RECOMPUTED


def test_a_stated_budget_is_kept_and_decides_how_steps_are_carried_out() -> None:
    def planned(tokens: int) -> Plan:
        stated = {"maxSeqLen": 2048, "effectiveBatchSize": 512, "maxTokensPerGpu": tokens}
        return plan(recipe(resources=gpus(), hyperparameters=stated), model("llama-3.1-8b"))

    found = {tokens: planned(tokens) for tokens in (2048, 6000, 10_000, 80_000, 200_000)}
    assert [result.max_tokens_per_gpu for result in found.values()] == list(found)
    assert [mode(result) for result in found.values()] == [
        KEPT_AND_LOCAL,
        KEPT,
        RECOMPUTED_AND_LOCAL,
        RECOMPUTED,
        # It does not fit in any way.
        RECOMPUTED,
    ]


def test_gradients_are_exchanged_once_only_where_that_is_less_traffic() -> None:
    """With room for whole gradients beside them, micro-batches would be smaller, and weights gathered more often."""

    def chosen(batch_size: int) -> Mode:
        stated = {"maxSeqLen": 4000, "effectiveBatchSize": batch_size}
        return mode(plan(recipe(resources=gpus(), hyperparameters=stated), model("qwen2.5-0.5b")))

    # One micro-batch of 8,000 tokens holds all.
    assert chosen(16) == KEPT
    assert chosen(1024) == KEPT_AND_LOCAL
    # 80,000 tokens: one micro-batch, or two beside whole gradients.
    eight = {"maxSeqLen": 16_000, "effectiveBatchSize": 40}
    assert mode(plan(recipe(resources=gpus(), hyperparameters=eight), model("llama-3.1-8b"))) == RECOMPUTED


def test_the_reason_for_a_budget_tells_in_what_way_it_fits() -> None:
    stated = {"maxSeqLen": 4000, "effectiveBatchSize": 128}
    result = plan(recipe(resources=gpus(), hyperparameters=stated), model("llama-3.1-8b"))
    [choice] = [choice for choice in result.chosen if choice.field == "spec.hyperparameters.maxTokensPerGpu"]
    assert choice.reason == "the most that fits into 72 GiB, 90% of a GPU, with activations kept"


def test_a_micro_batch_never_has_room_for_more_than_a_step() -> None:
    small = recipe(resources=gpus(), hyperparameters={"maxSeqLen": 512, "effectiveBatchSize": 32})
    assert plan(small, model("qwen2.5-0.5b")).max_tokens_per_gpu == 4 * 512


def test_a_guessed_size_does_not_fill_a_gpu() -> None:
    guessed = ModelFacts(typical(8 * 10**9), guessed_from="llama-8b")
    stated = {"maxSeqLen": 4096, "effectiveBatchSize": 1024}
    assert plan(recipe(resources=gpus(), hyperparameters=stated), guessed).max_tokens_per_gpu == 4096


def test_the_volume_must_hold_every_model_and_one_state_more_than_is_kept() -> None:
    stated = {"maxSeqLen": 512, "numEpochs": 3}
    result = plan(recipe(hyperparameters=stated), model("qwen2.5-0.5b"))
    assert result.checkpoint_bytes is not None
    assert result.resume_bytes is not None
    assert result.storage_bytes == 4 * result.checkpoint_bytes + 3 * result.resume_bytes
    without = recipe(hyperparameters=stated, checkpoints={"everyEpoch": False})
    assert plan(without, model("qwen2.5-0.5b")).storage_bytes == (
        result.checkpoint_bytes + 3 * result.resume_bytes
    )
    full = plan(recipe(hyperparameters=stated, checkpoints={"fullStateAtEpoch": True}), model("qwen2.5-0.5b"))
    assert full.full_state_bytes is not None
    assert full.storage_bytes == result.storage_bytes + 3 * full.full_state_bytes


@pytest.mark.parametrize(
    ("spec", "models"),
    [
        ({}, 0),
        ({"evaluation": {"everySteps": 10}}, 2),
        ({"evaluation": {"everySteps": 10}, "checkpoints": {"keepBest": False}}, 0),
        ({"checkpoints": {"everyEpoch": False}}, 2),
    ],
)
def test_the_best_models_take_space_where_nothing_else_keeps_them(spec: dict[str, Any], models: int) -> None:
    stated, small = {"maxSeqLen": 512, "numEpochs": 3}, model("qwen2.5-0.5b")
    train = {"volume": {"claimName": "data", "path": "train.jsonl"}}
    without = plan(recipe(hyperparameters=stated, **spec), small)
    validated = recipe(hyperparameters=stated, dataset={"train": train, "validationSplit": 0.1}, **spec)
    assert without.checkpoint_bytes is not None
    assert without.storage_bytes is not None
    assert plan(validated, small).storage_bytes == without.storage_bytes + models * without.checkpoint_bytes


def test_a_model_that_is_downloaded_takes_space_beside_the_results() -> None:
    small = model("qwen2.5-0.5b")
    here, fetched = recipe(), recipe(model={"huggingFace": {"repo": "Qwen/Qwen2.5-0.5B"}})
    without, result = plan(here, small), plan(fetched, small)
    assert without.download_bytes is None
    assert result.download_bytes == 2 * small.architecture.parameters
    assert without.storage_bytes is not None
    assert result.storage_bytes == without.storage_bytes + result.download_bytes


def test_a_model_that_the_adapter_is_merged_into_takes_space_and_a_pod_s_memory() -> None:
    """Whatever the frozen model was trained in."""
    facts, stated = model("qwen2.5-0.5b"), {"maxSeqLen": 512, "numEpochs": 3}
    for bits in ({}, {"loadIn4Bit": True}):
        without = plan(recipe(method="lora", hyperparameters=stated, lora=bits), facts)
        merged = plan(
            recipe(method="lora", hyperparameters=stated, lora=bits | {"mergeAdapter": True}), facts
        )
        assert without.merge_memory is None
        assert without.storage_bytes is not None
        assert merged.storage_bytes == without.storage_bytes + 2 * facts.architecture.parameters
        assert merged.merge_memory is not None
        assert 2 * facts.architecture.parameters < merged.merge_memory < 3 * GIB


def test_70_billion_weights_do_not_fit_one_small_gpu_and_what_does_is_said() -> None:
    job = recipe(resources=gpus(per_node=1, memory="24Gi"), hyperparameters={"maxSeqLen": 2048})
    studied = review(job, model("llama-3.1-70b"), None)
    [finding] = [
        f
        for f in studied.findings
        if f.field == "spec.resources.gpuMemory" and f.severity is not Severity.NOTE
    ]
    assert "24 GiB" in finding.message
    assert studied.remedies
    assert str(studied.remedies[0]) in finding.message
    assert [warning.message for warning in studied.plan.warnings if warning.rule == finding.rule] == [
        finding.message
    ]


def test_a_job_that_fits_needs_no_remedy() -> None:
    job = recipe(resources=gpus(), hyperparameters={"maxSeqLen": 2048})
    assert review(job, model("llama-3.1-8b"), None).remedies == []


@given(
    st.sampled_from(["sft", "osft", "lora"]),
    st.integers(10**8, 10**11),
    st.sampled_from([16, 24, 40, 80, 141]),
    st.sampled_from([1, 2, 8]),
    st.integers(64, 40000),
)
def test_every_remedy_fits(method: str, parameters: int, size: int, per_node: int, longest: int) -> None:
    job = recipe(method=method, resources=gpus(per_node=per_node, memory=f"{size}Gi"))
    for remedy in remedies(job, typical(parameters), longest=longest):
        stated = {"max_seq_len": remedy.longest}
        changed = replace(
            remedy.recipe, hyperparameters=remedy.recipe.hyperparameters.model_copy(update=stated)
        )
        need = plan(changed, ModelFacts(typical(parameters))).memory_per_gpu
        assert need is not None
        assert remedy.recipe.usable_gpu_memory is not None
        assert need.estimate <= remedy.recipe.usable_gpu_memory, remedy


# Where the fields are that a remedy names without their block.
_BLOCKS = {
    "nodes": "resources",
    "gpusPerNode": "resources",
    "gpuMemory": "resources",
    "maxSeqLen": "hyperparameters",
    "maxTokensPerGpu": "hyperparameters",
}


def changed(spec: dict[str, Any], change: str) -> FineTuneJob:
    """The job with what a remedy says written into its spec, word by word."""
    spec = json.loads(json.dumps(spec))
    for field, value in yaml.safe_load(f"{{{change}}}").items():
        *blocks, name = field.split(".")
        block = spec
        for one in blocks or ([_BLOCKS[name]] if name in _BLOCKS else []):
            block = block.setdefault(one, {})
        block[name] = value
    return FineTuneJob.model_validate(manifest(**spec))


@given(
    st.sampled_from(
        [("sft", None), ("osft", {"unfreezeRankRatio": 0.5}), ("lora", {"loadIn8Bit": True}), ("lora", {})]
    ),
    st.integers(10**8, 10**11),
    st.sampled_from([16, 24, 40, 80]),
    st.sampled_from([(1, 1), (1, 8), (2, 4)]),
    st.integers(64, 32768),
    st.none() | st.sampled_from([32768, 65536]),
)
def test_a_remedy_does_what_it_says_where_it_is_written_word_by_word(
    method: tuple[str, dict[str, Any] | None],
    parameters: int,
    size: int,
    gang: tuple[int, int],
    longest: int,
    budget: int | None,
) -> None:
    name, block = method
    hyperparameters = {"maxSeqLen": longest} | ({"maxTokensPerGpu": budget} if budget else {})
    spec: dict[str, Any] = {"method": name, "resources": gpus(*gang, memory=f"{size}Gi")}
    spec |= {"hyperparameters": hyperparameters} | ({name: block} if block is not None else {})
    facts = ModelFacts(typical(parameters))
    for remedy in study(FineTuneJob.model_validate(manifest(**spec)).spec, facts).remedies:
        assert study(changed(spec, remedy.change).spec, facts).remedies == [], remedy


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=80),
    st.integers(1, 6),
    st.integers(300, 1200),
)
def test_a_step_is_divided_as_the_plan_says(lengths: list[int], world_size: int, budget: int) -> None:
    """All samples once, each micro-batch within the budget, and as many of them as was foretold."""
    stated = {"effectiveBatchSize": len(lengths), "maxSeqLen": 300, "maxTokensPerGpu": budget}
    job = recipe(hyperparameters=stated, resources={"nodes": world_size, "gpusPerNode": 0})
    foretold = plan(job, data=DataFacts(samples=len(lengths))).micro_batches_per_step
    assert foretold is not None
    shares = pack(np.arange(len(lengths)), np.array(lengths), budget=budget, world_size=world_size)
    assert sorted(sample for share in shares for members in share for sample in members) == list(
        range(len(lengths))
    )
    assert all(sum(lengths[i] for i in members) <= budget for share in shares for members in share)
    assert all(foretold.min <= len(share) <= foretold.max for share in shares)


def begun(planned: Plan) -> Precedents:
    """What a run that began with this plan keeps to."""
    field = "spec.hyperparameters.maxTokensPerGpu"
    return Precedents(chosen=[choice for choice in planned.chosen if choice.field != field])


@pytest.mark.parametrize("method", ["sft", "osft", "lora"])
def test_a_run_that_has_begun_keeps_to_what_was_chosen_on_any_hardware(method: str) -> None:
    data = DataFacts(samples=800, lengths=LENGTHS)
    small, large = (recipe(method=method, resources=gpus(nodes=nodes)) for nodes in (1, 6))
    first = plan(small, model("qwen2.5-1.5b"), data)
    later = plan(large, model("qwen2.5-1.5b"), data, begun(first))
    # The guide itself would choose otherwise: each of 48 processes needs a sample.
    assert plan(large, model("qwen2.5-1.5b"), data).effective_batch_size == 48
    assert (first.effective_batch_size, later.effective_batch_size) == (32, 32)
    assert later.total_steps == first.total_steps
    assert choices(later).keys() == choices(first).keys()
    for choice in begun(first).chosen:
        assert later.choice(choice.field) == choice


def test_a_newer_guide_changes_nothing_of_a_run_that_has_begun() -> None:
    chosen = Choice(field="spec.hyperparameters.learningRate", value=3e-6, reason="an older guide said so")
    before = Precedents(chosen=[chosen])
    assert plan(recipe(), before=before).learning_rate == 3e-6
    assert plan(recipe(), before=before).choice(chosen.field) == chosen
    stated = plan(recipe(hyperparameters={"learningRate": 1e-4}), before=before)
    assert (stated.learning_rate, stated.choice(chosen.field)) == (1e-4, None)


def halved(tokens: int, planned: Plan, **differently: Any) -> Precedents:
    """A run that ran out of memory with this plan, on 8 GPUs of 80 GiB."""
    assert planned.activation_checkpointing is not None
    assert planned.accumulate_locally is not None
    found: dict[str, Any] = {
        "world_size": planned.world_size,
        "on_gpu": True,
        "gpu_memory": 80 * GIB,
        "activation_checkpointing": planned.activation_checkpointing,
        "accumulate_locally": planned.accumulate_locally,
    }
    found |= {"max_tokens_per_gpu": tokens, "reason": f"{HALVED} at step 7"}
    return Precedents(budget=TokenBudget(**(found | differently)))


@pytest.mark.parametrize("stated", [{}, {"maxTokensPerGpu": 32768}])
def test_a_budget_that_did_not_fit_is_planned_with_no_more(stated: dict[str, int]) -> None:
    job = recipe(resources=gpus(), hyperparameters=stated)
    data = DataFacts(samples=5000, lengths=LENGTHS)
    first = plan(job, model("llama-3.1-8b"), data)
    assert first.max_tokens_per_gpu is not None
    later = plan(job, model("llama-3.1-8b"), data, halved(first.max_tokens_per_gpu // 2, first))
    assert later.max_tokens_per_gpu == first.max_tokens_per_gpu // 2
    choice = later.choice("spec.hyperparameters.maxTokensPerGpu")
    assert choice is not None
    assert choice.reason == "halved after running out of memory at step 7"
    # Not in a way that takes more memory, though by the estimate there would be room for it now.
    assert later.activation_checkpointing == first.activation_checkpointing
    assert later.accumulate_locally == first.accumulate_locally
    assert first.memory_per_gpu is not None
    assert later.memory_per_gpu is not None
    assert later.memory_per_gpu.estimate < first.memory_per_gpu.estimate


@pytest.mark.parametrize(
    "differently",
    [
        {"world_size": 16},
        {"gpu_memory": 40 * GIB},
        {"gpu_memory": None},
        {"on_gpu": False},
    ],
    ids=lambda differently: next(iter(differently)),
)
def test_a_budget_that_did_not_fit_elsewhere_tells_nothing(differently: dict[str, Any]) -> None:
    job, data = recipe(resources=gpus()), DataFacts(samples=5000, lengths=LENGTHS)
    first = plan(job, model("llama-3.1-8b"), data)
    assert plan(job, model("llama-3.1-8b"), data, halved(2000, first, **differently)) == first


def test_a_way_that_took_too_much_memory_is_not_taken_again() -> None:
    """Though by the estimate there is room for it."""
    job, data = recipe(resources=gpus()), DataFacts(samples=5000, lengths=LENGTHS)
    first = plan(job, model("llama-3.1-8b"), data)
    assert first.activation_checkpointing is False
    leaner = halved(1000, first, max_tokens_per_gpu=None, activation_checkpointing=True)
    later = plan(job, model("llama-3.1-8b"), data, leaner)
    assert later.activation_checkpointing is True
    # The estimate says how large micro-batches can be then.
    assert first.max_tokens_per_gpu is not None
    assert later.max_tokens_per_gpu is not None
    assert later.max_tokens_per_gpu > first.max_tokens_per_gpu
    still = plan(job, model("llama-3.1-8b"), data, halved(1500, first, activation_checkpointing=True))
    assert (still.activation_checkpointing, still.max_tokens_per_gpu) == (True, 1500)


def test_what_would_fit_is_told_by_more_than_the_estimate_that_failed() -> None:
    """One sample was estimated at some 39 GiB, in the way that takes the least memory, and did not fit into 80."""
    job, data = recipe(resources=gpus(per_node=4)), DataFacts(samples=5000, lengths=LENGTHS)
    facts = model("llama-3.1-8b")
    leanest = halved(1500, plan(job, facts, data), activation_checkpointing=True)
    planned = plan(job, facts, data, leanest)
    assert planned.memory_per_gpu is not None
    assert planned.memory_per_gpu.estimate < 40 * GIB
    found = remedies_after(job, facts, data, leanest, tokens=1500)
    for remedy in found:
        room = remedy.recipe.usable_gpu_memory
        assert room is not None
        assert remedy.estimate <= room
    # By the estimate that failed, shorter samples would do, and so did these.
    assert [remedy.change for remedy in found] == ["gpusPerNode: 8", "method: lora", "gpuMemory: 141Gi"]


def test_where_there_is_no_estimate_nobody_can_tell_what_would_fit() -> None:
    data = DataFacts(samples=5000, lengths=LENGTHS)
    on_cpu, of_unknown_size = recipe(), recipe(resources=gpus(memory=None))
    for job in (on_cpu, of_unknown_size):
        assert remedies_after(job, model("llama-3.1-8b"), data, Precedents(), tokens=1500) == []
    assert remedies_after(recipe(resources=gpus()), None, data, Precedents(), tokens=1500) == []
