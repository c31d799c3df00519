"""AdamW has every option that the spec states, and the learning rate follows its formula."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from finetune_api.hyperparameters import Hyperparameters
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel
from finetune_trainer.optimization import make_optimizer, make_scheduler
from finetune_trainer.planning import ExactPlan

PEAK, STEPS, WARMUP = 3e-4, 40, 8
# What remains of the peak after the warm-up, where a share of the other steps is done.
COURSES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def plan() -> ExactPlan:
    return ExactPlan(
        learning_rate=PEAK,
        effective_batch_size=1,
        num_epochs=1,
        max_seq_len=8,
        max_tokens_per_gpu=8,
        activation_checkpointing=False,
        accumulate_locally=False,
        world_size=1,
        steps_per_epoch=STEPS,
        total_steps=STEPS,
        trainable_parameters=4,
    )


def whole(model: nn.Module) -> Parametrization:
    """All weights of a model are trained."""
    return Parametrization(cast(TrainableModel, model))


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("course", COURSES)
def test_the_learning_rate_rises_and_follows_its_course(course: Any, warmup: int) -> None:
    stated = Hyperparameters(lr_scheduler=course, warmup_steps=warmup)
    optimizer = make_optimizer(whole(nn.Linear(2, 2)), stated, plan())
    scheduler = make_scheduler(optimizer, stated, plan())
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rising = [PEAK * step / warmup for step in range(warmup)]
    after = [PEAK * COURSES[course]((step - warmup) / (STEPS - warmup)) for step in range(warmup, STEPS)]
    assert found == pytest.approx(rising + after)


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize(
    ("course", "theirs"),
    [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")],
)
def test_the_learning_rate_is_that_of_transformers_to_the_last_bit(
    course: Any, theirs: str, warmup: int
) -> None:
    stated = Hyperparameters(lr_scheduler=course, warmup_steps=warmup)
    optimizers = [make_optimizer(whole(nn.Linear(2, 2)), stated, plan()) for _ in range(2)]
    ours = make_scheduler(optimizers[0], stated, plan())
    reference = get_scheduler(theirs, optimizers[1], num_warmup_steps=warmup, num_training_steps=STEPS)
    for _ in range(STEPS + 1):
        assert ours.get_last_lr() == reference.get_last_lr()
        for scheduler, optimizer in zip((ours, reference), optimizers, strict=True):
            optimizer.step()
            scheduler.step()


def test_every_option_of_adamw_reaches_every_weight() -> None:
    stated = Hyperparameters(beta1=0.7, beta2=0.8, eps=1e-3, weight_decay=0.2)
    layer = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = make_optimizer(whole(layer), stated, plan())
    [group] = optimizer.param_groups
    before, gradients = [weight.detach().clone() for weight in layer.parameters()], []
    for weight in layer.parameters():
        weight.grad = torch.randn_like(weight)
        gradients.append(weight.grad.clone())
    optimizer.step()
    # After one step the moments, their bias corrected, are the gradient and its square.
    expected = [
        old * (1 - PEAK * 0.2) - PEAK * gradient / (gradient.abs() + 1e-3)
        for old, gradient in zip(before, gradients, strict=True)
    ]
    torch.testing.assert_close(
        [weight.detach() for weight in layer.parameters()], expected, atol=1e-7, rtol=1e-5
    )
    assert group["betas"] == (0.7, 0.8)
    assert len(before) == 4
