"""What a transformers Trainer is watched with."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.trainer.systems import Run, Trained


class Recorder(TrainerCallback):
    """Keeps the clock and the loss of every step, and counts what the collator makes."""

    def __init__(self) -> None:
        self.step_ends: list[float] = []
        self.losses: list[float] = []
        self._real: list[int] = []
        """Tokens of each forward pass."""
        self._given = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Called after the optimizer."""
        self.step_ends.append(time.perf_counter())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Called after every step."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def counted(self, collate: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        """A collator that counts."""

        def collated(examples: Any) -> dict[str, Any]:
            batch = collate(examples)
            given = batch["input_ids"].numel()
            self._given += given
            # Without a mask there is no padding.
            self._real.append(int(batch["attention_mask"].sum()) if "attention_mask" in batch else given)
            return batch

        return collated

    def watch(self, trainer: Trainer, run: Run) -> Trained:
        """Train, and tell how it went."""
        trainer.add_callback(self)
        trainer.data_collator = self.counted(trainer.data_collator)
        trainer.train()
        assert len(self.losses) == len(self.step_ends) == run.steps
        passes = trainer.args.gradient_accumulation_steps
        return Trained(
            losses=self.losses,
            step_ends=self.step_ends,
            tokens=[sum(self._real[first : first + passes]) for first in range(0, len(self._real), passes)],
            padding=1 - sum(self._real) / self._given,
        )


def common_arguments(run: Run) -> dict[str, Any]:
    """What every run with a Trainer is told, so that it does the same work."""
    return {
        "output_dir": str(run.scratch),
        "per_device_train_batch_size": run.padded_batch,
        "gradient_accumulation_steps": run.batch_size // run.padded_batch,
        "learning_rate": run.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "num_train_epochs": 1,
        "activation_checkpointing": run.use_gpu,
        "bf16": run.use_gpu,
        "use_cpu": not run.use_gpu,
        # The order of the rows is ours, so that every step trains on the same samples in every system.
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": run.seed,
    }


def in_order(rows: Any, order: Sequence[int]) -> Any:
    """A `datasets.Dataset` with its rows in the order of training."""
    return rows.select(list(order))
