"""The plan of a run: exact before any GPU is there, and counted once."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from finetune_api.runconfig import RunConfig
from finetune_api.status import DatasetStatus, Lengths, MicroBatches
from finetune_api.units import GIB
from finetune_trainer import planning, precedents
from finetune_trainer.batches import Schedule
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.packing import pack
from finetune_trainer.planning import Facts, Planner, gather, make_plan
from finetune_trainer.prepare.arrow import Part, Prepared, Samples, SampleWriter
from finetune_trainer.storage import Storage
from tiny import CONTEXT, save_tiny_model
from trainer.gangs import config

SAMPLES, BATCH_SIZE, BUDGET = 50, 8, 128
STATED = {"effective_batch_size": BATCH_SIZE, "max_seq_len": 100, "max_tokens_per_gpu": BUDGET}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "model")
    return tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    directory = tmp_path_factory.mktemp("prepared")
    lengths = np.random.default_rng(0).integers(10, 100, SAMPLES, np.int32)
    tokens = np.zeros(lengths.sum(), np.int32)
    with SampleWriter(directory, "samples") as writer:
        writer.write(Part(tokens, tokens, lengths, lengths - 1, np.arange(SAMPLES)))
    status = DatasetStatus(
        samples=SAMPLES,
        dropped=0,
        tokens=len(tokens),
        loss_tokens=len(tokens) - SAMPLES,
        longest=int(lengths.max()),
        lengths=Lengths(p50=50, p95=95, p99=98, max=int(lengths.max())),
        digest="digest-of-samples",
    )
    return Prepared(Samples(directory), status)


def run(base: Path, *, nodes: int = 2, **hyperparameters: Any) -> RunConfig:
    """A run whose samples are cut as STATED, changed as told."""
    return config(base, nodes=nodes, **(STATED | hyperparameters))


def gathered(config: RunConfig, prepared: Prepared, storage: Storage | None = None) -> Facts:
    """The facts of a run."""
    return gather(config, prepared, CONTEXT, lambda: None, storage=storage)


def storage_in(base: Path) -> Storage:
    """The run's own directory: `base` itself."""
    return Storage(base, "run", "uid-of-run")


def expected(
    prepared: Prepared, *, world_size: int = 2, budget: int = BUDGET, seed: int = 42
) -> MicroBatches:
    """Micro-batches, step by step as training packs them."""
    schedule = Schedule(SAMPLES, BATCH_SIZE, seed)
    counts = [
        len(
            pack(
                schedule.batch(step).samples, prepared.samples.lengths, budget=budget, world_size=world_size
            )[0]
        )
        for step in range(schedule.steps_per_epoch)
    ]
    return MicroBatches(min=min(counts), mean=sum(counts) / len(counts), max=max(counts))


def uncounted(*_: object) -> MicroBatches:
    """In the place of counting, where nobody may count."""
    raise AssertionError("counted again")


def test_the_plan_is_exact_without_the_model_itself(base: Path, prepared: Prepared) -> None:
    plan = make_plan(gathered(run(base, num_epochs=3), prepared))
    assert (plan.steps_per_epoch, plan.total_steps) == (7, 21)
    assert plan.micro_batches_per_step == expected(prepared)
    weights = load_file(base / "model" / "model.safetensors")
    assert plan.trainable_parameters == sum(weight.size for weight in weights.values())
    # Training knows better, for it has counted.
    assert make_plan(gathered(run(base), prepared), 12345).trainable_parameters == 12345


def test_a_family_whose_shapes_nobody_knows_is_planned_without_them(base: Path, prepared: Prepared) -> None:
    file = base / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "from-the-future"}))
    plan = make_plan(gathered(run(base), prepared))
    assert plan.trainable_parameters is None
    assert plan.micro_batches_per_step == expected(prepared)


def test_what_the_preparation_has_counted_the_gang_does_not_count_again(
    base: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = storage_in(base)
    first = gathered(run(base), prepared, keep)
    monkeypatch.setattr(planning, "count", uncounted)
    assert gathered(run(base), prepared, keep) == first
    # What does not decide it may differ.
    again = gathered(run(base, learning_rate=1e-3, num_epochs=5), prepared, keep)
    assert again.measured == first.measured
    assert list(base.glob("plan*")) == [base / "plan.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 3},
        {"effective_batch_size": 9},
        {"max_tokens_per_gpu": 200},
        {"seed": 43},
        {"digest": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_it_is_counted_anew_where_anything_that_decides_it_differs(
    base: Path, prepared: Prepared, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = storage_in(base)
    gathered(run(base), prepared, keep)
    other = prepared
    if "digest" in change:
        other = Prepared(prepared.samples, prepared.status.model_copy(update=change))
        change = {}
    with monkeypatch.context() as patch:
        patch.setattr(planning, "count", uncounted)
        with pytest.raises(AssertionError, match="counted again"):
            gathered(run(base, **change), other, keep)
    facts = gathered(run(base, **change), other, keep)
    monkeypatch.setattr(planning, "count", uncounted)
    assert gathered(run(base, **change), other, keep) == facts


def test_another_number_of_processes_is_packed_for(base: Path, prepared: Prepared) -> None:
    keep = storage_in(base)
    for nodes in (2, 1, 4):
        found = gathered(run(base, nodes=nodes), prepared, keep).measured.micro_batches
        assert found == expected(prepared, world_size=nodes)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"packing": {}}'])
def test_a_damaged_count_is_counted_anew(base: Path, prepared: Prepared, text: str) -> None:
    keep = base / "plan.json"
    keep.write_text(text)
    assert gathered(run(base), prepared, storage_in(base)).measured.micro_batches == expected(prepared)
    assert json.loads(keep.read_text())["packing"]["digest"] == "digest-of-samples"


def test_nothing_is_written_where_nothing_is_to_be_kept(base: Path, prepared: Prepared) -> None:
    before = sorted(base.rglob("*"))
    gathered(run(base), prepared)
    assert sorted(base.rglob("*")) == before


def test_a_budget_that_does_not_hold_the_longest_sample_is_refused(base: Path, prepared: Prepared) -> None:
    """Such a sample must be neither cut nor left out in silence: the user decides."""
    longest = prepared.status.longest
    with pytest.raises(
        InvalidConfigurationError, match=f"{longest - 1} tokens do not hold the longest sample"
    ):
        gathered(run(base, max_seq_len=longest - 1, max_tokens_per_gpu=longest - 1), prepared)


def planner(base: Path, prepared: Prepared, config: RunConfig) -> Planner:
    """Of an attempt at the run whose directory is `base`."""
    return Planner(config, prepared, CONTEXT, storage_in(base), lambda: None, trainable_parameters=12345)


def open_run(base: Path, nodes: int) -> RunConfig:
    """A run that states nothing but how its samples are packed."""
    return config(base, nodes=nodes, maxTokensPerGpu=BUDGET)


def test_a_run_that_goes_on_with_other_nodes_goes_on_as_it_began(base: Path, prepared: Prepared) -> None:
    first = planner(base, prepared, open_run(base, nodes=2)).plan()
    assert first.effective_batch_size == 32
    # The guide itself wants a sample for each of 40 processes.
    fresh = make_plan(gathered(open_run(base, nodes=40), prepared))
    assert fresh.effective_batch_size == 40
    later = planner(base, prepared, open_run(base, nodes=40)).plan()
    settled = ("effective_batch_size", "learning_rate", "num_epochs", "max_seq_len", "total_steps")
    assert [getattr(later, name) for name in settled] == [getattr(first, name) for name in settled]
    assert later.chosen == first.chosen
    assert later.micro_batches_per_step == MicroBatches(min=1, mean=1, max=1)


def test_what_is_stated_is_not_settled_by_anything_else(base: Path, prepared: Prepared) -> None:
    planner(base, prepared, open_run(base, nodes=2)).plan()
    stated = config(base, nodes=2, maxTokensPerGpu=BUDGET, effectiveBatchSize=10)
    assert planner(base, prepared, stated).plan().effective_batch_size == 10


@pytest.mark.parametrize("text", ["", "{", '{"chosen": [{}]}'])
def test_nobody_chooses_anew_where_the_first_choice_cannot_be_read(
    base: Path, prepared: Prepared, text: str
) -> None:
    planner(base, prepared, open_run(base, nodes=2)).plan()
    (base / "chosen.json").write_text(text)
    with pytest.raises(InvalidConfigurationError, match=r"chosen\.json tells what was chosen for this run"):
        planner(base, prepared, open_run(base, nodes=2)).plan()


def test_a_flipped_bit_in_what_was_chosen_changes_no_number(base: Path, prepared: Prepared) -> None:
    first = planner(base, prepared, open_run(base, nodes=2)).plan()
    file, storage = base / "chosen.json", Storage(base, "run", "uid-of-run")
    written, chosen = file.read_bytes(), precedents.read(storage).chosen
    for place in range(len(written)):
        file.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
        with suppress(InvalidConfigurationError):
            assert precedents.read(storage).chosen == chosen
    # Files of old have no checksum.
    found = json.loads(written)
    assert found.pop("sha256")
    file.write_text(json.dumps(found))
    assert planner(base, prepared, open_run(base, nodes=2)).plan() == first


def test_half_the_budget_is_planned_with_from_then_on(base: Path, prepared: Prepared) -> None:
    job = config(base, nodes=2, effectiveBatchSize=16, maxTokensPerGpu=400)
    first = planner(base, prepared, job).plan()
    budget = planner(base, prepared, job).smaller(first, 7, [50, 60, 70], "no memory " * 100)
    assert budget is not None
    planner(base, prepared, job).settle(budget)
    later = planner(base, prepared, job).plan()
    assert later.max_tokens_per_gpu == 200
    assert later.micro_batches_per_step != first.micro_batches_per_step
    choice = later.choice("spec.hyperparameters.maxTokensPerGpu")
    assert choice is not None
    assert choice.reason.startswith(
        "halved after running out of memory at step 7: 180 tokens did not fit (no"
    )
    # What the guide chose is settled without it, and elsewhere it tells nothing.
    assert "maxTokensPerGpu" not in (base / "chosen.json").read_text()
    elsewhere = planner(base, prepared, job.model_copy(update={"nodes": 1})).plan()
    assert elsewhere.max_tokens_per_gpu == 400


def test_a_budget_is_never_too_small_for_the_longest_sample(base: Path, prepared: Prepared) -> None:
    plans = planner(base, prepared, run(base))
    first = plans.plan()
    longest = prepared.status.longest
    budget = plans.smaller(first, 1, [50, 60], "no memory")
    assert budget is not None
    assert budget.max_tokens_per_gpu == longest > BUDGET // 2
    plans.settle(budget)
    least = plans.plan()
    assert least.max_tokens_per_gpu == longest
    assert plans.smaller(least, 2, [50, 40], "no memory") is None


def test_half_the_budget_does_not_help_a_sample_that_is_alone(base: Path, prepared: Prepared) -> None:
    plans = planner(base, prepared, run(base))
    assert plans.smaller(plans.plan(), 1, [99], "no memory") is None


def test_where_half_the_budget_does_not_help_the_way_that_takes_the_least_memory_may(
    base: Path, prepared: Prepared
) -> None:
    cpu = config(base, nodes=2, maxSeqLen=100, effectiveBatchSize=BATCH_SIZE, maxTokensPerGpu=100)
    plans = planner(base, prepared, cpu.model_copy(update={"gpus_per_node": 1, "gpu_memory": 80 * GIB}))
    first = plans.plan()
    assert (first.activation_checkpointing, first.max_tokens_per_gpu) == (False, 100)
    leaner = plans.smaller(first, 3, [99], "no memory")
    assert leaner is not None
    assert leaner.reason == (
        "activations recomputed, after running out of memory at step 3: 99 tokens did not fit (no memory)"
    )
    plans.settle(leaner)
    second = plans.plan()
    assert (second.activation_checkpointing, second.max_tokens_per_gpu) == (True, 100)
    assert plans.smaller(second, 3, [99], "no memory") is None


def test_a_budget_that_cannot_be_read_is_found_again(base: Path, prepared: Prepared) -> None:
    (base / "token-budget.json").write_text('{"maxTokensPerGpu": "few"}')
    assert planner(base, prepared, run(base)).plan().max_tokens_per_gpu == BUDGET
