"""The optimizer and the course of its learning rate."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from finetune_api.hyperparameters import Hyperparameters
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.planning import ExactPlan


def make_optimizer(trained: Parametrization, stated: Hyperparameters, plan: ExactPlan) -> AdamW:
    """AdamW over all trained weights, norms and biases included: weight decay applies to every one of them.

    The fused kernel takes each weight, its gradient and its moments in one pass, and needs no memory of its own.
    """
    return AdamW(
        [{"params": weights} for weights in trained.groups],
        lr=plan.learning_rate,
        betas=(stated.beta1, stated.beta2),
        eps=stated.eps,
        weight_decay=stated.weight_decay,
        fused=True,
    )


def make_scheduler(optimizer: AdamW, stated: Hyperparameters, plan: ExactPlan) -> LambdaLR:
    """The learning rate over the run's steps, as transformers has it.

    Its own schedules come with peft and bitsandbytes, which few runs need: to import those takes each process seconds.
    """
    share = partial(_share, course=stated.lr_scheduler, warmup=stated.warmup_steps, total=plan.total_steps)
    return LambdaLR(optimizer, share)


def _share(step: int, *, course: Literal["constant", "linear", "cosine"], warmup: int, total: int) -> float:
    """What the learning rate of a step is of the highest one."""
    if step < warmup:
        return step / warmup
    left = max(1, total - warmup)
    match course:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, (total - step) / left)
        case "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * ((step - warmup) / left))))


def clip(weights: Iterable[nn.Parameter], norm: float, limit: float) -> None:
    """Shorten the gradients of weights, so that what is `norm` long all together becomes `limit` long at most."""
    clip_grads_with_norm_(list(weights), limit, torch.tensor(norm))
