"""The systems that are measured, each behind the same two methods: train and prepare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One training run, the same for all systems. Everything trains one epoch over the data, in the same order."""

    model: Path
    data: Path
    order: Sequence[int]
    """Rows of the data in the order of training."""
    batch_size: int
    """Samples of an optimizer step."""
    padded_batch: int
    """Samples that systems which pad put into one forward pass."""
    token_budget: int
    """Tokens that systems which pack put into one forward pass."""
    max_length: int
    learning_rate: float
    seed: int
    use_gpu: bool
    lora: Mapping[str, Any] | None
    """spec.lora of a job that trains adapters; None where all weights are trained."""
    scratch: Path
    """An empty directory."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return -(-len(self.order) // self.batch_size)


@dataclass(frozen=True)
class Trained:
    """What a run showed."""

    losses: Sequence[float]
    """Of each step: mean over its trained tokens."""
    step_ends: Sequence[float]
    """Seconds on one clock, of each step: from one to the next passes all that a step takes."""
    tokens: Sequence[int]
    """Real tokens of each step."""
    padding: float
    """Share of padding in what the model was given."""
    peak_memory: int = 0
    """Bytes that the run took at its peak; the worker measures them, not the system."""


@dataclass(frozen=True)
class Preparation:
    """Data to prepare."""

    model: Path
    data: Path
    max_length: int
    processes: int
    scratch: Path
    """An empty directory."""


@dataclass(frozen=True)
class Prepared:
    """What preparing showed."""

    seconds: float
    """From the file of rows to samples on disk that can be trained on."""
    rows: int
    tokens: int
    loss_tokens: int
