"""What is said about the memory of osft is what torch allocates, in real training steps on the CPU."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api import names
from finetune_api.architecture import from_config
from finetune_api.memory import Mode, decomposition_peak
from finetune_api.memory.cases import Case
from finetune_api.memory.subspaces import Subspaces
from finetune_api.methods import Osft
from finetune_api.recipe import Recipe
from finetune_api.report import Report
from finetune_api.trained_weights import trainable_parameters, unfreeze_rank_ratio
from finetune_trainer.methods.osft import Osft as Subspaced
from finetune_trainer.model import TrainableModel
from finetune_trainer.subspaces.deal import deal, decomposition_cost
from finetune_trainer.subspaces.exchange import Exchange
from finetune_trainer.subspaces.subspace import Factors, Subspace
from finetune_trainer.subspaces.targets import Target, find_targets
from tiny import save_chat_data, save_tokenizer
from trainer import forked, gangs
from trainer.allocations import (
    MODES,
    SFT,
    allocating,
    base_model,
    config_of,
    divided,
    estimated,
    measured_peak,
    member_of,
    resident,
    whole,
)

TOLERANCE = 0.02


def osft(ratio: float, *patterns: str, gpus_per_node: int = 0) -> Recipe:
    block = Osft(unfreeze_rank_ratio=ratio, target_patterns=list(patterns))
    return replace(SFT, method="osft", osft=block, gpus_per_node=gpus_per_node)


def subspaced(recipe: Recipe, model: TrainableModel) -> Subspaced:
    """What the first process has, with factors of no matrix: their sizes are all that counts here."""
    targets = targets_of(recipe, model)
    shapes = [target.shape for target in targets]
    owners = deal([decomposition_cost(*shape) for shape in shapes], recipe.world_size)
    subspaces = {
        number: Subspace(some_factors(*shapes[number]), targets[number].matrix.unfrozen)
        for number in owners[0]
    }
    return Subspaced(model, targets, Exchange(shapes, owners, rank=0), subspaces, base="")


def targets_of(recipe: Recipe, model: TrainableModel) -> list[Target]:
    return find_targets(model.hf, recipe.osft.target_patterns, unfreeze_rank_ratio(recipe))


def some_factors(rows: int, columns: int) -> Factors:
    rank = min(rows, columns)
    return Factors(torch.zeros(rows, rank), torch.zeros(rank), torch.zeros(rank, columns))


@pytest.mark.parametrize(
    ("family", "shape", "ratio", "patterns", "tokens"),
    [
        ("llama", {}, 0.5, [], 2560),
        ("llama", {}, 0.25, [], 256),
        ("qwen2", {}, 0.5, [], 1024),
        # Here, what comes after the backward pass needs most.
        ("llama", {"vocab_size": 100}, 0.1, [], 32),
        ("llama", {"vocab_size": 100}, 0.5, ["mlp"], 32),
        ("llama", {"vocab_size": 100}, 1.0, [], 32),
        ("gpt2", {"vocab_size": 100}, 0.5, [], 32),
    ],
)
def test_a_step(family: str, shape: dict[str, Any], ratio: float, patterns: list[str], tokens: int) -> None:
    recipe, config, longest = osft(ratio, *patterns), config_of(family, **shape), min(tokens, 256)
    assert trainable_parameters(recipe, from_config(config.to_dict())) == sum(
        weight.numel() for weight in subspaced(recipe, whole(config)).parameters.values()
    )
    peak = measured_peak(lambda config: subspaced(recipe, whole(config)), config, tokens, longest)
    assert estimated(recipe, config, tokens, longest) == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_step_as_a_gpu_takes_it(mode: Mode) -> None:
    recipe, tokens = osft(0.5, gpus_per_node=4), 256
    config = config_of("llama", vocab_size=4000, num_hidden_layers=8)
    with member_of(recipe.world_size) as gang:
        peak = measured_peak(
            lambda config: subspaced(recipe, divided(config, gang, mode)),
            config,
            tokens,
            tokens,
            locally=mode.accumulate_locally,
        )
    assert estimated(recipe, config, tokens, tokens, mode) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_computing_with_factors(family: str, processes: int, ratio: float) -> None:
    """That is seldom what needs most in a step, so it is measured alone."""
    recipe, config = osft(ratio, gpus_per_node=processes), config_of(family, num_hidden_layers=8)
    with ExitStack() as stack:
        model = divided(config, stack.enter_context(member_of(processes)), MODES[0])
        trained, targets = subspaced(recipe, model), targets_of(recipe, model)
        with allocating() as pulling_back:
            for target in targets:
                target.weight.grad = torch.zeros_like(target.weight)
            trained.pull_back()
        with allocating() as measuring:
            trained.leak()
    found = Subspaces.of(recipe, from_config(config.to_dict()), Case.ESTIMATE)
    gradients = sum(target.shard.nbytes for target in targets)
    assert found.pulling_back == pytest.approx(pulling_back.peak - gradients, rel=0.01)
    assert found.measuring == pytest.approx(measuring.peak, rel=0.01)


@pytest.mark.parametrize(("outputs", "inputs"), [(1600, 1600), (1000, 3000)])
def test_decomposing_a_matrix(outputs: int, inputs: int, tmp_path: Path) -> None:
    """LAPACK takes its workspace past torch, so the process is measured."""
    config = config_of("llama", hidden_size=inputs, intermediate_size=outputs)
    before, after = resident(
        f"""
import torch
from pathlib import Path
from finetune_trainer.subspaces.decomposition import Decomposer
torch.set_num_threads(1)
decomposer = Decomposer(Path({str(tmp_path)!r}), "me", lambda: None)
decomposer.factors("w", torch.randn(50, 50))
print(peak())
decomposer.factors("w", torch.randn({outputs}, {inputs}))
print(peak())"""
    )
    expected = decomposition_peak(osft(0.5, "gate_proj"), from_config(config.to_dict()))
    assert expected == pytest.approx(after - before, rel=0.2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data and a model whose weights are 80 MB, more than what else comes and goes in a process."""
    directory = tmp_path_factory.mktemp("memory")
    save_chat_data(directory / "train.jsonl", samples=20)
    save_tokenizer(directory / "model")
    shape = {"vocab_size": 300, "hidden_size": 512, "intermediate_size": 2048, "num_key_value_heads": 8}
    base_model(config_of("llama", head_dim=64, **shape)).save_pretrained(directory / "model")
    return directory


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_a_real_run_had_in_main_memory_is_what_was_expected(base: Path, nodes: int) -> None:
    run = gangs.config(base, name=f"on-{nodes}", nodes=nodes, effectiveBatchSize=4, maxSteps=4, maxSeqLen=128)
    run = run.model_copy(update={"method": "osft", "osft": Osft(unfreeze_rank_ratio=0.5)})
    forked.train(run)
    peak = max(step.peak_memory or 0 for step in gangs.metrics(base / run.name))
    plan = Report.model_validate_json((base / run.name / names.REPORT_FILE).read_text()).plan
    assert plan is not None
    assert plan.memory_per_gpu is not None
    assert plan.memory_per_gpu.low < peak < plan.memory_per_gpu.high
