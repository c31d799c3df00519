"""TRL's SFTTrainer, as its users run it, and with its option that does without padding."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from benchmarks.trainer.systems import Preparation, Prepared, Run, Trained
from benchmarks.trainer.systems.recording import Recorder, common_arguments, in_order
from finetune_api.methods import Lora
from finetune_api.trained_weights import ALPHA_PER_RANK, LORA_R


@dataclass(frozen=True)
class Trl:
    """SFTTrainer on conversations, with loss on the assistant's tokens alone.

    Settings that are not named here are TRL's own, but one: it recomputes activations by default. That costs a third
    more arithmetic, which finetune-trainer does not spend on the CPU, so it is off there.
    """

    padding_free: bool = False

    def train(self, run: Run) -> Trained:
        """Train."""
        rows = load_dataset("json", data_files=str(run.data), split="train", cache_dir=str(run.scratch))
        trainer = SFTTrainer(
            model=str(run.model),
            args=SFTConfig(
                **common_arguments(run),
                # No sample is longer; it does not take both options at once.
                max_length=None if self.padding_free else run.max_length,
                assistant_only_loss=True,
                padding_free=self.padding_free,
                # A frozen model is as narrow there as ours is.
                model_init_kwargs={
                    "dtype": "bfloat16" if run.use_gpu and run.lora is not None else "float32"
                },
            ),
            train_dataset=in_order(rows, run.order),
            **({} if run.lora is None else _adapters(Lora.model_validate(run.lora), use_gpu=run.use_gpu)),
        )
        return Recorder().watch(trainer, run)

    def prepare(self, preparation: Preparation) -> Prepared:
        """Read the file and have SFTTrainer prepare it, as it does before training."""
        began = time.perf_counter()
        rows = load_dataset(
            "json",
            data_files=str(preparation.data),
            split="train",
            cache_dir=str(preparation.scratch / "cache"),
        )
        read = time.perf_counter() - began
        trainer = _Preparing(
            model=str(preparation.model),
            args=SFTConfig(
                output_dir=str(preparation.scratch / "output"),
                max_length=preparation.max_length,
                assistant_only_loss=True,
                dataset_num_proc=preparation.processes,
                bf16=False,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=rows,
        )
        prepared: Any = trainer.train_dataset
        return Prepared(
            seconds=read + trainer.seconds,
            rows=len(prepared),
            tokens=sum(map(len, prepared["input_ids"])),
            loss_tokens=sum(label != -100 for labels in prepared["labels"] for label in labels),
        )


def _adapters(lora: Lora, *, use_gpu: bool) -> dict[str, Any]:
    """What a user of TRL says of adapters as ours are, by default: of rank 16, beside all linear layers."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if use_gpu else torch.float32,
    )
    return {
        "peft_config": LoraConfig(
            task_type="CAUSAL_LM", r=LORA_R, lora_alpha=ALPHA_PER_RANK * LORA_R, target_modules="all-linear"
        ),
        "quantization_config": quantization if lora.load_in_4bit else None,
    }


class _Preparing(SFTTrainer):  # type: ignore[misc]
    """Clocks the preparation of the data, apart from the loading of the model."""

    seconds = 0.0

    def _prepare_dataset(self, *arguments: Any, **options: Any) -> Dataset:
        began = time.perf_counter()
        prepared = super()._prepare_dataset(*arguments, **options)
        self.seconds = time.perf_counter() - began
        return prepared
