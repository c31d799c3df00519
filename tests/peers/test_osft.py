"""Orthogonal subspaces beside those of mini_trainer: ranks, gradients, projections, and whole training runs.

It replaces each linear layer by one of factors and has autograd find their gradients; ours computes with whole
matrices and finds the same gradients by the chain rule. Where the two differ, a test pins how, and its docstring says
why ours is as it is.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.optim import AdamW
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.trained_weights import unfrozen_rank
from finetune_trainer.methods.osft import decompose
from finetune_trainer.model import TrainableModel
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.subspace import Factors, Subspace
from finetune_trainer.subspaces.targets import find_targets
from tiny import save_tiny_model

osft_utils = pytest.importorskip("mini_trainer.osft_utils", reason="the group `peers` is not installed")
pytestmark = pytest.mark.peers

CONFIGS = Path(__file__).parents[1] / "configs"
LARGEST = 8192
# Two layers tell as much as many.
SHALLOW = {
    "num_hidden_layers": 2,
    "n_layer": 2,
    "num_layers": 2,
    "attention_types": [[["global", "local"], 1]],
    "attention_layers": ["global", "local"],
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More of them wait for one another when the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def their_ranks(weights: nn.Module, ratio: float) -> list[int]:
    """The frozen rank of each weight, on the way from the ratio that a user states, as theirs goes it."""
    stated = osft_utils._build_osft_kwargs(1.0 - ratio, None)
    return list(osft_utils.auto_generate_target_osft_config(weights, target_patterns=[""], **stated).values())


def our_rank(shape: Sequence[int], ratio: float) -> int:
    outputs, inputs = shape
    return min(shape) - unfrozen_rank(outputs, inputs, ratio)


@pytest.fixture(scope="module")
def weights() -> nn.Module:
    """One of each rank, tall ones and wide ones."""
    shapes = [(rank, LARGEST) if rank % 2 else (LARGEST, rank) for rank in range(1, LARGEST + 1)]
    return nn.ParameterList(torch.empty(shape, device="meta") for shape in shapes)


@pytest.mark.parametrize("ratio", [percent / 100 for percent in range(1, 100)])
def test_ranks(weights: nn.Module, ratio: float) -> None:
    """The same for every shape, but where the frozen share of the directions is a whole number: theirs computes it from
    the binary fraction next to 1 - ratio, which may be just below, and freezes one direction too few."""
    for weight, theirs in zip(weights.parameters(), their_ranks(weights, ratio), strict=True):
        rank, ours = min(weight.shape), our_rank(weight.shape, ratio)
        assert ours == rank * (100 - round(100 * ratio)) // 100
        assert theirs == ours or (rank * round(100 * ratio) % 100 == 0 and theirs == ours - 1)


@pytest.mark.parametrize(
    ("rank", "ratio"), [(10, 0.9), (640, 0.8), (2560, 0.8), (5120, 0.8), (640, 0.9), (2560, 0.9), (5120, 0.9)]
)
def test_their_ranks_are_one_too_low(weights: nn.Module, rank: int, ratio: float) -> None:
    """Widths of well-known models among them."""
    assert our_rank((rank, rank), ratio) == round(rank * (1 - ratio))
    assert their_ranks(weights, ratio)[rank - 1] == round(rank * (1 - ratio)) - 1


def test_their_ratio_of_one_is_a_half(weights: nn.Module) -> None:
    """It says "unfreeze all"; a share of zero to freeze is taken for none stated, and the default is a half."""
    assert their_ranks(weights, 1.0) == [rank // 2 for rank in range(1, LARGEST + 1)]
    assert not any(our_rank(weight.shape, 1.0) for weight in weights.parameters())


class Pair:
    """One matrix in both forms, from the same decomposition."""

    def __init__(self, outputs: int, inputs: int, trained: int, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.matrix = self.random(outputs, inputs)
        self.theirs = osft_utils.create_svd_dict(self.matrix, min(outputs, inputs) - trained)
        self.ours = Subspace(factors(self.theirs), trained)
        self._factored = osft_utils.create_osft_model_class(nn.Module)._factorized_linear

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.draw)

    def their_layer(self, given: Tensor) -> Tensor:
        """Their forward pass, which uses nothing of the model that it is a method of."""
        result: Tensor = self._factored(None, given, self.theirs)
        return result

    def both(self) -> list[tuple[Tensor, Tensor]]:
        """Our and their trained factors."""
        return [
            (self.ours.u_low, self.theirs["U_low"]),
            (self.ours.s_low, self.theirs["S_low"]),
            (self.ours.v_low, self.theirs["V_low"]),
        ]


def factors(theirs: dict[str, Any]) -> Factors:
    """Their decomposition, frozen and trained together."""
    return Factors(
        torch.cat([theirs["U_high"], theirs["U_low"].detach()], dim=1),
        torch.cat([theirs["S_high"], theirs["S_low"].detach()]),
        torch.cat([theirs["V_high"], theirs["V_low"].detach()]),
    )


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Square, tall and wide, with any number of directions trained."""
    outputs, inputs = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    return Pair(outputs, inputs, draw(st.integers(1, min(outputs, inputs))), draw(st.integers(0, 2**32 - 1)))


def assert_same(ours: Tensor | None, theirs: Tensor | None, scale: float) -> None:
    """Equal but for the order of additions in fp32; `scale` is as large as what was added."""
    assert ours is not None
    assert theirs is not None
    assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-5 * scale)


def largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())


@settings(max_examples=200)
@given(pairs())
def test_gradients(pair: Pair) -> None:
    """Ours by the chain rule from that of the whole matrix, theirs by autograd through the factors; both projected."""
    matrix = pair.matrix.clone().requires_grad_()
    tokens, weighting = pair.random(16, matrix.shape[1]), pair.random(16, matrix.shape[0])
    ours, theirs = linear(tokens, matrix), pair.their_layer(tokens)
    assert_same(ours, theirs, largest(ours))
    (ours * weighting).sum().backward()
    (theirs * weighting).sum().backward()
    assert matrix.grad is not None
    pair.ours.pull_back(matrix.grad)
    osft_utils.project_gradient_to_orthogonal_space(pair.theirs)
    # What was added up may cancel out, and the projection leave little of it.
    whole = float(tokens.norm() * weighting.norm())
    for (mine, other), scale in zip(
        pair.both(), (largest(pair.ours.s_low), 1, largest(pair.ours.s_low)), strict=True
    ):
        assert_same(mine.grad, other.grad, whole * scale)


@settings(max_examples=200)
@given(pairs())
def test_values(pair: Pair) -> None:
    """After a step that led out of the subspace: the same projection, and the same matrix."""
    with torch.no_grad():
        for mine, other in pair.both():
            step = pair.random(*mine.shape)
            mine += step
            other += step
    pair.ours.project()
    osft_utils.project_parameter_to_orthogonal_space(pair.theirs)
    for mine, other in pair.both():
        assert_same(mine, other, largest(mine))
    theirs = osft_utils.reconstruct_weight_matrix(pair.theirs, torch.float32)
    assert_same(pair.ours.matrix(), theirs, largest(theirs))


def shallow_model(config: dict[str, Any]) -> PreTrainedModel:
    """What transformers builds for a config.json, without memory for its weights."""
    known = config | {name: value for name, value in SHALLOW.items() if name in config}
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**known))
    return model


def our_selection(model: PreTrainedModel) -> set[str]:
    return {target.name for target in find_targets(model, (), ratio=0.5)}


def their_selection(model: nn.Module, path: str) -> set[str]:
    return set(osft_utils.auto_generate_target_osft_config(model, path))


CONFIG = {file.stem: json.loads(file.read_text()) for file in sorted(CONFIGS.glob("*.json"))}


@pytest.mark.parametrize("name", sorted(CONFIG.keys() - {"phi-2"}))
def test_the_same_matrices_are_chosen(name: str) -> None:
    """For every family that theirs knows, under a path that tells which it is."""
    model = shallow_model(CONFIG[name])
    assert our_selection(model) == their_selection(model, f"/models/{name}")


def test_all_linear_layers_of_an_unknown_family_are_chosen() -> None:
    """Phi-2 is none of theirs, and has three of six layers in common with the names that it then looks for."""
    model = shallow_model(CONFIG["phi-2"])
    ours, theirs = our_selection(model), their_selection(model, "/models/phi-2")
    assert theirs < ours
    assert len(ours) == 2 * len(theirs)


def test_the_path_of_a_model_decides_nothing() -> None:
    """Theirs takes a Qwen below /opt for an OPT, and trains two thirds of its matrices without any subspace; a GPT-Neo
    whose directory is named by its model_type, all of them."""
    qwen = shallow_model(CONFIG["qwen2.5-0.5b"])
    theirs = their_selection(qwen, "/opt/models/qwen2.5-0.5b")
    assert {name.split(".")[-2] for name in our_selection(qwen) - theirs} == {
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    neo = shallow_model(CONFIG["gpt-neo-125m"])
    assert our_selection(neo)
    assert not their_selection(neo, "/models/gpt_neo")


def test_patterns_are_regular_expressions() -> None:
    """As documented by both; theirs looks for the text as it stands, finds nothing, and trains every weight freely."""
    model, pattern = shallow_model(CONFIG["llama-3.2-1b"]), r"\.[qv]_proj$"
    assert len(find_targets(model, [pattern], ratio=0.5)) == 4
    assert not osft_utils.auto_generate_target_osft_config(model, target_patterns=[pattern])


def test_transposed_layers_are_trained() -> None:
    """Theirs chooses GPT-2's layers, whose weights are [inputs, outputs], and applies them as if they were not."""
    layer = Conv1D(6, 4)
    model_class = osft_utils.create_osft_model_class(OneLayer)
    theirs = model_class(None, {"layer.weight": 2}, layer=layer)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        theirs.layer(torch.ones(1, 4))


class OneLayer(nn.Module):
    """The least that their class makes a model of."""

    def __init__(self, config: None, *, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


STEPS = 20
HYPERPARAMETERS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_trajectory(tmp_path: Path, ratio: float) -> None:
    """Twenty steps of AdamW, without clipping (theirs clips before it projects): the same losses, the same weights."""
    save_tiny_model(tmp_path / "llama")
    batches = torch.randint(3, 259, (STEPS, 4, 32), generator=torch.Generator().manual_seed(1))
    ours = _train_ours(tmp_path / "llama", ratio, batches)
    theirs = _train_theirs(tmp_path / "llama", ratio, batches)
    assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
    assert ours[1].keys() == theirs[1].keys()
    start = LlamaForCausalLM.from_pretrained(tmp_path / "llama").state_dict()
    for name, weight in ours[1].items():
        assert largest(weight - theirs[1][name]) <= 1e-5, name
        # What AdamW did is a hundred times as much, and more.
        assert largest(weight - start[name]) > 1e-3, name


Run = tuple[list[float], dict[str, Tensor]]


def _train_ours(base: Path, ratio: float, batches: Tensor) -> Run:
    """Losses, and the weights at the end."""
    model = TrainableModel(LlamaForCausalLM.from_pretrained(base))
    decomposer = Decomposer(base / "decompositions", "test", lambda: None)
    trained = decompose(model, find_targets(model.hf, (), ratio), decomposer)
    optimizer = AdamW(trained.parameters.values(), **HYPERPARAMETERS)
    losses = []
    for batch in batches:
        loss = model.hf(input_ids=batch, labels=batch).loss
        loss.backward()
        trained.pull_back()
        optimizer.step()
        trained.zero_grad()
        trained.constrain()
        trained.push_forward()
        losses.append(float(loss.detach()))
    return losses, {name: weight.detach() for name, weight in model.hf.state_dict().items()}


def _train_theirs(base: Path, ratio: float, batches: Tensor) -> Run:
    """The same by their model class, with the steps of their optimizer."""
    model = osft_utils.create_osft_model_class(LlamaForCausalLM).from_pretrained(
        str(base), rank_ratio=1 - ratio
    )
    model.reinitialize_osft(decompose_existing_weights=True)
    optimizer = osft_utils.optim_wrapper(
        AdamW([weight for weight in model.parameters() if weight.requires_grad], **HYPERPARAMETERS), model
    )
    losses = []
    for batch in batches:
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, model.prepare_state_dict_for_save(
        {name: value.detach() for name, value in model.state_dict().items()}
    )
