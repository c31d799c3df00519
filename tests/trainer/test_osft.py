"""Orthogonal subspace fine-tuning, compared with its plain mathematics: factors that autograd knows of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune_api.methods import Osft
from finetune_api.trained_weights import trainable_parameters, unfrozen_rank
from finetune_trainer.planning import model_facts
from finetune_trainer.reports import history
from finetune_trainer.storage import Storage
from finetune_trainer.subspaces.subspace import Factors
from tiny import save_chat_data, save_tiny_model
from trainer import forked, gangs
from trainer.plain import SAMPLES, Result, by_hand, check, trained

SMALL: dict[str, Any] = {"maxTokensPerGpu": 130}
CLIPPED: dict[str, Any] = {"maxGradNorm": 0.3}
LINEAR = "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("osft")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


class Factored:
    """Some matrices of a model are made of factors, of which the weakest are trained."""

    def __init__(self, model: nn.Module, ratio: float = 0.5, layers: tuple[str, ...] = LINEAR) -> None:
        self._dense: dict[str, nn.Parameter] = {}
        self._frozen: dict[str, Factors] = {}
        self._trained: dict[str, tuple[nn.Parameter, nn.Parameter, nn.Parameter]] = {}
        for name, weight in model.named_parameters():
            if name.split(".")[-2] not in layers:
                self._dense[name] = weight
                continue
            u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
            k = min(int(len(s) * (1 - ratio) + 1e-9), len(s) - 1)
            self._frozen[name] = Factors(u[:, :k], s[:k], v[:k])
            low = (u[:, k:], s[k:], v[k:])
            u_low, s_low, v_low = (nn.Parameter(factor.clone()) for factor in low)
            self._trained[name] = u_low, s_low, v_low
        self.parameters = [*self._dense.values(), *(one for some in self._trained.values() for one in some)]

    def values(self) -> dict[str, Tensor]:
        """The matrices multiplied out, in the sight of autograd."""
        made = {
            name: (high.u * high.s) @ high.v + (u * s) @ v
            for (name, high), (u, s, v) in zip(self._frozen.items(), self._trained.values(), strict=True)
        }
        return made | self._dense

    def project_gradients(self) -> None:
        """Take the frozen directions out of the gradients."""
        for high, (u, _, v) in zip(self._frozen.values(), self._trained.values(), strict=True):
            assert u.grad is not None
            assert v.grad is not None
            self._project(high, u.grad, v.grad)

    def project_values(self) -> None:
        """Take them out of the factors."""
        for high, (u, _, v) in zip(self._frozen.values(), self._trained.values(), strict=True):
            self._project(high, u.data, v.data)

    @staticmethod
    def _project(high: Factors, u: Tensor, v: Tensor) -> None:
        u -= high.u @ (high.u.T @ u)
        v -= (v @ high.v.T) @ high.v


def osft(ratio: float = 0.5, *patterns: str) -> dict[str, Any]:
    """Fields of a RunConfig."""
    return {"method": "osft", "osft": Osft(unfreeze_rank_ratio=ratio, target_patterns=list(patterns))}


@pytest.fixture(scope="module")
def plain(base: Path) -> Result:
    """What the mathematics say."""
    return by_hand(base, Factored)


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_any_number_of_processes_and_any_budget(base: Path, plain: Result, nodes: int) -> None:
    check(trained(base, f"on-{nodes}", nodes, method=osft(), **SMALL), plain)


@pytest.mark.parametrize(
    "planned",
    [{"accumulate_locally": False}, {"activation_checkpointing": True}],
    ids=str,
)
def test_any_mode(base: Path, plain: Result, planned: dict[str, Any]) -> None:
    name = "-".join(planned).replace("_", "-")
    check(trained(base, name, 2, method=osft(), planned=planned, **SMALL), plain)


@pytest.mark.parametrize(
    ("name", "ratio", "patterns", "layers"),
    [
        ("little", 0.1, (), LINEAR),
        ("all", 1.0, (), LINEAR),
        ("some", 0.25, (r"self_attn\.[qk]_proj$", r"up_"), ("q_proj", "k_proj", "up_proj")),
    ],
)
def test_any_ratio_and_patterns(
    base: Path, name: str, ratio: float, patterns: tuple[str, ...], layers: tuple[str, ...]
) -> None:
    expected = by_hand(base, lambda model: Factored(model, ratio, layers))
    check(trained(base, name, 2, method=osft(ratio, *patterns)), expected)


@pytest.mark.parametrize("nodes", [1, 2])
def test_clipping_is_by_the_norm_of_what_adamw_sees(base: Path, nodes: int) -> None:
    expected = by_hand(base, Factored, **CLIPPED)
    assert min(expected.grad_norms) > CLIPPED["maxGradNorm"]
    check(trained(base, f"clipped-on-{nodes}", nodes, method=osft(), **CLIPPED), expected)


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        ("train.jsonl", {"unmaskMessages": True}),
        ("documents.jsonl", {"pretraining": {"blockSize": 16}, "numEpochs": 1}),
    ],
)
def test_data_mean_what_they_mean_for_sft(base: Path, data: str, stated: dict[str, Any]) -> None:
    """The first step's loss is the base model's, on the same tokens; what is learnt from there on is another thing."""
    (base / "documents.jsonl").write_text('{"document": "some forty letters of what there is to know"}\n' * 9)
    losses = []
    for method in ({"method": "sft"}, osft()):
        name = f"{method['method']}-on-{data.removesuffix('.jsonl')}"
        run = gangs.config(base, name=name, data=data, learningRate=1e-3, effectiveBatchSize=8, **stated)
        forked.train(run.model_copy(update=method))
        losses.append(gangs.losses(base / name))
    sft, ours = losses
    assert ours[0] == pytest.approx(sft[0], abs=1e-5)
    assert ours[-1] != pytest.approx(sft[-1], abs=1e-5)


def test_what_is_frozen_is_in_the_result_as_it_was(base: Path, plain: Result) -> None:
    """U_high^T W = S_high V_high whatever was learnt, for what was learnt is orthogonal; and much was learnt."""
    trained(base, "kept", 2, method=osft())
    before, after = (load_file(base / file / "model.safetensors") for file in ("model", "kept/output"))
    moved = 0
    for name, weight in before.items():
        if name.split(".")[-2] in LINEAR:
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            k = len(s) - unfrozen_rank(len(weight), weight.shape[1], 0.5)
            torch.testing.assert_close(u[:, :k].T @ after[name], s[:k, None] * v[:k], atol=1e-5, rtol=0)
            torch.testing.assert_close(after[name] @ v[:k].T, u[:, :k] * s[:k], atol=1e-5, rtol=0)
        moved += bool((after[name] - weight).abs().max() > 1e-3)
    # A norm's weights of one move little.
    assert moved > len(before) / 2
    assert before.keys() == after.keys()


def test_the_report_tells_what_is_trained(base: Path) -> None:
    trained(base, "told", 2, method=osft(0.25), maxSteps=12, numEpochs=3)
    config = gangs.config(base, name="told", nodes=2).model_copy(update=osft(0.25))
    report = history.last_report(Storage.of(config), 1)
    told = report.subspaces
    assert told is not None
    assert (told.decomposed, told.of) == (14, 14)
    kinds = {kind.module: (kind.count, kind.directions, kind.trained) for kind in told.matrices}
    assert kinds["mlp.down_proj"] == (2, 32, 8)
    assert kinds["self_attn.k_proj"] == (2, 16, 4)
    facts = model_facts(base / "model")
    assert facts is not None
    assert report.plan is not None
    expected = trainable_parameters(config.recipe, facts.architecture)
    assert report.plan.trainable_parameters == expected
    leaks = {step.step: step.subspace_leak for step in gangs.metrics(base / "told")}
    assert [step for step, leak in leaks.items() if leak is not None] == [1, 11]
    assert max(leak for leak in leaks.values() if leak is not None) < 1e-6


def test_a_pattern_that_matches_nothing_ends_it_with_what_there_is(base: Path) -> None:
    [end] = gangs.run(gangs.config(base, name="idle").model_copy(update=osft(0.5, "q_proj", "quark")))
    assert end.exit_code == 78
    assert "spec.osft.targetPatterns" in end.reason
    assert "'quark'" in end.reason
    assert "down_proj" in end.reason
