"""Training Hub's hyperparameter guide as a rule book: what to choose where the spec is silent, and why."""

from typing import TypeVar

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.status import Choice, Plan

T = TypeVar("T", int, float)

# Guide, "Learning rate": 5e-6 to 1e-6 for SFT.
SFT_LEARNING_RATE = 5e-6
# Guide, "Number of epochs": start with 2-3.
NUM_EPOCHS = 2
# Guide, "Effective batch size": (fewer samples than, batch size); the smallest value of each range.
BATCH_SIZES = ((1_000, 32), (10_001, 128))
LARGE_DATASET_BATCH_SIZE = 256


def effective_batch_size(samples: int) -> int:
    """The batch size that the guide recommends for a data set of this many samples."""
    return next((size for limit, size in BATCH_SIZES if samples < limit), LARGE_DATASET_BATCH_SIZE)


def max_seq_len(longest: int, context_length: int) -> int:
    """The length that keeps every sample, as far as the model's context reaches."""
    return min(longest, context_length)


def plan(
    stated: Hyperparameters,
    *,
    samples: int,
    longest: int,
    context_length: int,
    world_size: int,
    trainable_parameters: int,
) -> Plan:
    """Settle every value that `stated` leaves open, and count the steps.

    `samples` are those that remain once over-long ones are dropped; `longest` is the longest of all, in tokens.
    """
    chosen: list[Choice] = []

    def settle(field: str, value: T | None, recommended: T, reason: str) -> T:
        if value is not None:
            return value
        chosen.append(Choice(field=field, value=recommended, reason=reason))
        return recommended

    batch_size = settle(
        "effectiveBatchSize",
        stated.effective_batch_size,
        effective_batch_size(samples),
        f"recommended for {samples:,} samples",
    )
    epochs = settle("numEpochs", stated.num_epochs, NUM_EPOCHS, "2 to 3 epochs are a good start")
    length = settle(
        "maxSeqLen",
        stated.max_seq_len,
        max_seq_len(longest, context_length),
        f"keeps every sample that fits into the model's context of {context_length:,} tokens",
    )
    budget = settle(
        "maxTokensPerGpu",
        stated.max_tokens_per_gpu,
        length,
        "maxSeqLen: one sample of full length, or several shorter ones",
    )
    learning_rate = settle(
        "learningRate",
        stated.learning_rate,
        SFT_LEARNING_RATE,
        "5e-6 to 1e-6 is where to start with supervised fine-tuning",
    )
    steps_per_epoch = -(-samples // batch_size)
    total_steps = steps_per_epoch * epochs
    return Plan(
        learning_rate=learning_rate,
        effective_batch_size=batch_size,
        num_epochs=epochs,
        max_seq_len=length,
        max_tokens_per_gpu=budget,
        world_size=world_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=min(total_steps, stated.max_steps or total_steps),
        trainable_parameters=trainable_parameters,
        chosen=chosen,
    )
