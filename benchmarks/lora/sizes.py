"""How large what a run writes is, with adapters and with all weights."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.trainer.job import configuration
from benchmarks.trainer.worker import WorkerError, environment
from finetune_trainer.storage import Storage

# Which belong to the base model, and are the same whatever is trained.
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Sizes:
    """Bytes of all files but the tokenizer's."""

    result: int
    state: int
    """Weights and moments, from which a restart goes on."""


def measure(model: Path, data: Path, scratch: Path, lora: Mapping[str, Any] | None, threads: int) -> Sizes:
    """What one epoch leaves; it is as large after any number of steps."""
    config = configuration(
        model=model,
        data=data,
        storage=scratch / "run",
        hyperparameters={"numEpochs": 1, "effectiveBatchSize": 8, "maxTokensPerGpu": 2048, "maxSeqLen": 1024},
        lora=lora,
        full_state=True,
    )
    file = scratch / "config.json"
    file.write_text(config.to_json())
    ended = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "train", "--config", str(file)],
        env={**os.environ, **environment(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise WorkerError(f"training ended with exit code {ended.returncode}:\n{ended.stdout[-2000:]}")
    storage = Storage.of(config)
    return Sizes(_bytes(storage.output), _bytes(storage.full_state_after(1)))


def _bytes(directory: Path) -> int:
    return sum(
        file.stat().st_size for file in directory.rglob("*") if file.is_file() and file.name not in _TOKENIZER
    )
