"""What is trained, and what is made of how it went: the same for all benchmarks that train with several systems."""

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.trainer.results import Speed, Spread
from benchmarks.trainer.systems import Run, Trained
from benchmarks.trainer.workload import (
    HALF_BILLION,
    SMALL,
    Corpus,
    Shape,
    lengths_with_padding,
    save_conversations,
)
from finetune_trainer.batches import Schedule

SEED = 42
MAX_LENGTH = 1024
# TRL's own default.
PADDED_BATCH = 8
# The first step of a run pays for what is made once, such as the optimizer's state.
_WARM_UP = 1


@dataclass(frozen=True)
class Setting:
    """What is trained, and how much of it."""

    name: str
    shape: Shape
    use_gpu: bool
    batch_size: int
    token_budget: int
    mean_length: float
    steps: int
    repetitions: int


# Tokens of a forward pass: about as many as a padded batch of 8 holds.
CPU = Setting("trainer", SMALL, False, 16, 2048, 110, steps=6, repetitions=3)
GPU = Setting("trainer-gpu", HALF_BILLION, True, 64, 16_384, 400, steps=12, repetitions=3)


def make_run(setting: Setting, corpus: Corpus, model: Path, padding: int, scratch: Path) -> Run:
    """A run over conversations that hold so many percent of padding; writes them into `scratch`."""
    samples = setting.steps * setting.batch_size
    order = Schedule(samples, setting.batch_size, SEED).order(0)
    # A conversation comes out some tokens longer or shorter than asked for.
    in_order = lengths_with_padding(
        samples,
        padding=padding / 100,
        mean=setting.mean_length,
        longest=MAX_LENGTH - 50,
        batch=PADDED_BATCH,
        seed=padding,
    )
    lengths = np.empty_like(in_order)
    lengths[order] = in_order
    data = scratch / f"{setting.name}-{padding}.jsonl"
    save_conversations(data, corpus, lengths)
    return Run(
        model=model,
        data=data,
        order=order.tolist(),
        batch_size=setting.batch_size,
        padded_batch=PADDED_BATCH,
        token_budget=setting.token_budget,
        max_length=MAX_LENGTH,
        learning_rate=1e-3,
        seed=SEED,
        use_gpu=setting.use_gpu,
        lora=None,
        scratch=scratch,
    )


def speed(results: dict[str, list[Trained]]) -> Speed:
    """What repeated runs on the same data show, by system."""
    tokens = {tuple(one.tokens) for repeated in results.values() for one in repeated}
    assert len(tokens) == 1, f"the systems did not train on the same tokens: {tokens}"
    reference = np.array(results["ours"][0].losses)
    return Speed(
        padding=results["trl"][0].padding,
        tokens_per_second={
            system: Spread([tokens_per_second(one) for one in repeated])
            for system, repeated in results.items()
        },
        loss_difference={
            system: max(float(np.abs(np.array(one.losses) / reference - 1).max()) for one in repeated)
            for system, repeated in results.items()
        },
    )


def tokens_per_second(result: Trained) -> float:
    """Without padding, and without the first step."""
    seconds = result.step_ends[-1] - result.step_ends[_WARM_UP - 1]
    return sum(result.tokens[_WARM_UP:]) / seconds


def processor() -> str:
    """The name of this machine's processor."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
