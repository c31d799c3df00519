"""For how long saving a state holds training up: in the background, and at once."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.trainer.workload import VOCABULARY, Corpus, Shape, save_model
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Gang
from finetune_trainer.inputs import Inputs
from finetune_trainer.methods import sft
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import load_config
from finetune_trainer.storage import Storage

# 89 million weights, each with two moments in fp32: 1 GiB.
SHAPE = Shape(width=768, layers=9, heads=12, key_value_heads=12, feed_forward=2048, vocabulary=VOCABULARY)
REPETITIONS = 7
_TOKENS = 64


@dataclass(frozen=True)
class Stall:
    """One repetition, in seconds."""

    at_once: float
    """Writing, checksums and flushing to disk, while training waits."""
    held_up: float
    """The same in the background: until training goes on."""
    complete: float
    """And until the state is complete, with training beside it."""
    slowed_down: float
    """What the steps until then took longer than steps do."""


def measure(scratch: Path, corpus: Corpus) -> tuple[int, list[Stall]]:
    """Bytes of the state, and the repetitions, both ways in turn."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    base = scratch / "model"
    save_model(base, corpus, SHAPE)
    gang = Gang(use_gpu=False)
    gang.join()
    bench = _Bench(gang, base, scratch)
    # The first saves pay for what is made once: staging memory, files' places in the page cache.
    bench.once(-1)
    found = [bench.once(number) for number in range(REPETITIONS)]
    gang.leave()
    return bench.size, found


class _Bench:
    def __init__(self, gang: Gang, base: Path, scratch: Path) -> None:
        model = sft.build(base, load_config(base), gang, activation_checkpointing=False)
        self._optimizer = AdamW(model.parameters(), lr=1e-5, fused=True)
        self._state = State(Parametrization(model), self._optimizer, LambdaLR(self._optimizer, lambda _: 1.0))
        self._storage = Storage(scratch / "runs", "runs", "uid")
        self._checkpoints = Checkpoints(
            self._storage,
            gang,
            base,
            data="digest",
            effective_batch_size=1,
            keep_last=1,
            tick=lambda: None,
        )
        ids = torch.randint(VOCABULARY, (_TOKENS,))
        self._inputs: Inputs = {
            "input_ids": ids[None],
            "position_ids": torch.arange(_TOKENS)[None],
            "sample_lengths": [_TOKENS],
            "boundaries": torch.tensor([0, _TOKENS], dtype=torch.int32),
            "predicting": torch.arange(_TOKENS - 1),
            "targets": ids[1:],
        }
        self._step()
        self.size = sum(tensor.numel() * tensor.element_size() for tensor in self._state.tensors().values())

    def once(self, number: int) -> Stall:
        """A state at once, then one in the background of training."""
        shutil.rmtree(self._storage.resume, ignore_errors=True)
        began = time.perf_counter()
        self._checkpoints.save_aside(self._state, 2 * number + 3, 0.0, 0)
        at_once = time.perf_counter() - began
        usual = min(self._step() for _ in range(3))
        began = time.perf_counter()
        self._checkpoints.begin(self._state, 2 * number + 4, 0.0, 0)
        held_up = time.perf_counter() - began
        slowed_down = 0.0
        while self._checkpoints.finished() is None:
            slowed_down += max(0.0, self._step() - usual)
        return Stall(at_once, held_up, time.perf_counter() - began, slowed_down)

    def _step(self) -> float:
        """Seconds of a step of training."""
        began = time.perf_counter()
        self._state.model(**self._inputs).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return time.perf_counter() - began
