"""A small model, what it is given, and how much it knows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.forgetting.facts import LENGTH, VOCABULARY, Integers
from finetune_api.hyperparameters import Hyperparameters
from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.inputs import Inputs
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import TrainableModel
from finetune_trainer.optimization import make_optimizer, make_scheduler
from finetune_trainer.planning import ExactPlan

_CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
)


def new_model(seed: int) -> TrainableModel:
    """A model that knows nothing, with PyTorch's own random weights.

    transformers draws them as large models need them: too small for a model of this width.
    """
    torch.manual_seed(seed)
    hf = LlamaForCausalLM._from_config(_CONFIG, attn_implementation=PER_SAMPLE, dtype=torch.float32)
    for module in hf.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.reset_parameters()
    return TrainableModel(hf)


def assemble(sentences: Integers) -> Inputs:
    """Sentences as the trainer packs them, with loss on the last token alone."""
    count = len(sentences)
    ids = torch.from_numpy(sentences)
    return {
        "input_ids": ids.reshape(1, -1),
        "position_ids": torch.arange(LENGTH).repeat(count)[None],
        "sample_lengths": [LENGTH] * count,
        "boundaries": torch.arange(0, count * LENGTH + 1, LENGTH, dtype=torch.int32),
        "predicting": torch.arange(LENGTH - 2, count * LENGTH, LENGTH),
        "targets": ids[:, -1].contiguous(),
    }


@dataclass(frozen=True)
class Score:
    """How well questions were answered."""

    accuracy: float
    loss: float


@torch.no_grad()
def examine(model: TrainableModel, questions: Integers) -> Score:
    """Ask."""
    inputs = assemble(questions)
    hidden = model.hidden(
        inputs["input_ids"], inputs["position_ids"], inputs["sample_lengths"], inputs["boundaries"]
    )
    logits = model.head().logits(hidden[0, inputs["predicting"]])
    targets = inputs["targets"]
    return Score(
        accuracy=float((logits.argmax(-1) == targets).double().mean()),
        loss=float(functional.cross_entropy(logits, targets)),
    )


def train(
    trained: Parametrization,
    stated: Hyperparameters,
    rate: float,
    total: int,
    batch: Callable[[], Integers],
    after: Callable[[int], None],
) -> None:
    """Make `total` steps of the trainer's optimizer, and call `after` with the number of those done, from 0 on."""
    plan = _plan(rate, total)
    optimizer = make_optimizer(trained, stated, plan)
    scheduler = make_scheduler(optimizer, stated, plan)
    after(0)
    for step in range(total):
        inputs = assemble(batch())
        loss = trained.model(**inputs) / len(inputs["targets"])
        loss.backward()
        trained.pull_back()
        nn.utils.clip_grad_norm_(trained.parameters.values(), stated.max_grad_norm)
        optimizer.step()
        scheduler.step()
        trained.zero_grad()
        trained.constrain()
        trained.push_forward()
        after(step + 1)


def _plan(rate: float, total: int) -> ExactPlan:
    """One epoch on one process; of all this, the optimizer and its schedule look at the rate and the steps alone."""
    return ExactPlan(
        learning_rate=rate,
        effective_batch_size=1,
        num_epochs=1,
        max_seq_len=LENGTH,
        max_tokens_per_gpu=LENGTH,
        activation_checkpointing=False,
        accumulate_locally=True,
        world_size=1,
        steps_per_epoch=total,
        total_steps=total,
    )
