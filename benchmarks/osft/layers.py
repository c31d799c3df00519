"""What one linear layer costs in each of the forms in which its subspace can be trained, beside a dense layer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from mini_trainer import osft_utils
from peft import OSFConfig
from peft.tuners.osf.layer import Linear as OsfLinear
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.osft.trained import Trained
from finetune_api.trained_weights import unfrozen_rank
from finetune_trainer.subspaces.subspace import Factors, Subspace

DENSE, OURS, FACTORED, SPLIT, OSF = (
    "dense",
    "ours",
    "mini_trainer: factors",
    "frozen part dense, trained part factors",
    "peft OSF",
)
# Layers of Qwen3-0.6B, and the square ones of Llama-3.2-1B.
SHAPES = ((1024, 1024), (3072, 1024), (1024, 3072), (2048, 2048))
RATIOS = (0.1, 0.25, 0.5, 0.75)
REPETITIONS = 4
# Tokens of a forward and backward pass.
MICRO_BATCH = 1024
LEAK_AFTER = 20


@dataclass(frozen=True)
class Cost:
    """Seconds of one repetition."""

    micro_batch: float
    """Forward and backward pass."""
    update: float
    """AdamW, and whatever else is done once in a step of the optimizer."""

    def of_step(self, tokens: int) -> float:
        """A step of the optimizer with so many tokens."""
        return self.micro_batch * tokens / MICRO_BATCH + self.update


@dataclass(frozen=True)
class Layer:
    """A linear layer in one of the forms."""

    forward: Callable[[Tensor], Tensor]
    trained: Trained
    low: Callable[[], tuple[Tensor, Tensor]] | None = None
    """The trained U and V as they are now."""


Costs = dict[str, list[Cost]]


def measure() -> dict[tuple[tuple[int, int], float], Costs]:
    """By shape and ratio: the repetitions of each form, in turns with the others."""
    return {(shape, ratio): _costs(shape, ratio) for shape in SHAPES for ratio in RATIOS}


def leaks() -> dict[str, float]:
    """By form: how far what is trained reaches into what is frozen, after some steps on random gradients."""
    matrix = _random_matrix(1024, 1024)
    factors, forms = _forms(matrix, 0.5)
    tokens = torch.randn(64, matrix.shape[1])
    found = {}
    for name, layer in forms.items():
        if layer.low is None:
            continue
        for _ in range(LEAK_AFTER):
            layer.forward(tokens).square().mean().backward()
            layer.trained.update()
        u_low, v_low = layer.low()
        leaks = (factors["U_high"].T @ u_low).abs().amax(), (v_low @ factors["V_high"].T).abs().amax()
        found[name] = float(max(leaks))
    return found


def ratio_to_dense(costs: Costs, form: str, tokens: int | None) -> float:
    """How many times as long a form takes as a dense layer: a step of so many tokens, or the passes alone."""

    def seconds(cost: Cost) -> float:
        return cost.micro_batch if tokens is None else cost.of_step(tokens)

    return median(
        seconds(mine) / seconds(dense) for mine, dense in zip(costs[form], costs[DENSE], strict=True)
    )


def _costs(shape: tuple[int, int], ratio: float) -> Costs:
    outputs, inputs = shape
    _, forms = _forms(_random_matrix(outputs, inputs), ratio)
    tokens = torch.randn(MICRO_BATCH, inputs, requires_grad=True)
    gradient = torch.randn(MICRO_BATCH, outputs)
    costs: Costs = {name: [] for name in forms}
    for repetition in range(-1, REPETITIONS):
        for name, layer in forms.items():
            began = time.perf_counter()
            layer.forward(tokens).backward(gradient)
            passed = time.perf_counter()
            layer.trained.update()
            # The first one pays for what is made once, such as AdamW's moments.
            if repetition >= 0:
                costs[name].append(Cost(passed - began, time.perf_counter() - passed))
            tokens.grad = None
    return costs


def _random_matrix(outputs: int, inputs: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(outputs, inputs, generator=draw).mul_(inputs**-0.5)


def _forms(matrix: Tensor, ratio: float) -> tuple[dict[str, Tensor], dict[str, Layer]]:
    """The factors, and all forms that train the weakest of them."""
    outputs, inputs = matrix.shape
    trained = unfrozen_rank(outputs, inputs, ratio)
    frozen = min(outputs, inputs) - trained
    decomposed: dict[str, Tensor] = osft_utils.create_svd_dict(matrix, frozen)
    return decomposed, {
        DENSE: _dense(matrix),
        OURS: _ours(matrix, decomposed, trained),
        FACTORED: _factored(decomposed),
        SPLIT: _split(decomposed),
        OSF: _osf(matrix, frozen),
    }


def _dense(matrix: Tensor) -> Layer:
    weight = nn.Parameter(matrix.clone())
    return Layer(partial(linear, weight=weight), Trained([weight]))


def _ours(matrix: Tensor, decomposed: dict[str, Tensor], trained: int) -> Layer:
    weight = nn.Parameter(matrix.clone())
    subspace = Subspace(_whole(decomposed), trained)

    def before() -> None:
        assert weight.grad is not None
        subspace.pull_back(weight.grad)
        weight.grad = None

    def after() -> None:
        subspace.project()
        weight.data.copy_(subspace.matrix())

    return Layer(
        partial(linear, weight=weight),
        Trained(list(subspace.parameters.values()), before, after),
        lambda: (subspace.u_low.detach(), subspace.v_low.detach()),
    )


def _whole(decomposed: dict[str, Tensor]) -> Factors:
    def joined(factor: str, dim: int) -> Tensor:
        return torch.cat([decomposed[f"{factor}_high"], decomposed[f"{factor}_low"].detach()], dim)

    return Factors(joined("U", 1), joined("S", 0), joined("V", 0))


def _factored(decomposed: dict[str, Tensor]) -> Layer:
    mine = _own(decomposed)
    forward = osft_utils.create_osft_model_class(nn.Module)._factorized_linear
    # It needs nothing of the model that it is a method of.
    return Layer(lambda tokens: forward(None, tokens, mine), _projected(mine), lambda: _low(mine))


def _split(decomposed: dict[str, Tensor]) -> Layer:
    mine = _own(decomposed)
    frozen = (mine["U_high"] * mine["S_high"]) @ mine["V_high"]

    def forward(tokens: Tensor) -> Tensor:
        directions = linear(tokens, mine["V_low"]) * mine["S_low"]
        return linear(tokens, frozen) + linear(directions, mine["U_low"])

    return Layer(forward, _projected(mine), lambda: _low(mine))


def _own(decomposed: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy, with trained factors of its own."""
    return {
        name: nn.Parameter(value.detach().clone()) if name.endswith("_low") else value
        for name, value in decomposed.items()
    }


def _projected(factors: dict[str, Tensor]) -> Trained:
    low = [value for value in factors.values() if isinstance(value, nn.Parameter)]
    return Trained(
        low,
        partial(osft_utils.project_gradient_to_orthogonal_space, factors),
        partial(osft_utils.project_parameter_to_orthogonal_space, factors),
    )


def _low(factors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    return factors["U_low"].detach(), factors["V_low"].detach()


def _osf(matrix: Tensor, frozen: int) -> Layer:
    outputs, inputs = matrix.shape
    base = nn.Linear(inputs, outputs, bias=False)
    base.weight.data.copy_(matrix)
    base.requires_grad_(False)
    layer = OsfLinear(base, "default", OSFConfig(effective_rank=frozen), effective_rank=frozen)
    factors = dict(layer.osf_svd_params["default"].named_parameters())
    return Layer(layer, Trained(list(factors.values())), lambda: _low(factors))
