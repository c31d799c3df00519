"""The optimizer and the course of its learning rate."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from finetune_api.hyperparameters import Hyperparameters
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.planning import ExactPlan

# The spec's names of schedules that transformers calls otherwise: there, `constant` knows no warm-up.
_SCHEDULERS = {"constant": "constant_with_warmup"}


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
    """The learning rate over the run's steps."""
    scheduler: LambdaLR = get_scheduler(
        _SCHEDULERS.get(stated.lr_scheduler, stated.lr_scheduler),
        optimizer,
        num_warmup_steps=stated.warmup_steps,
        num_training_steps=plan.total_steps,
    )
    return scheduler


def clip(weights: Iterable[nn.Parameter], norm: float, limit: float) -> None:
    """Shorten the gradients of weights, so that what is `norm` long all together becomes `limit` long at most."""
    clip_grads_with_norm_(list(weights), limit, torch.tensor(norm))
