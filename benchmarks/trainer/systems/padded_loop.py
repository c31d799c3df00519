"""transformers' Trainer on batches padded to their longest sample: the loop that most scripts are."""

from typing import Any

from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from benchmarks.trainer.systems import Run, Trained
from benchmarks.trainer.systems.recording import Recorder, common_arguments, in_order


class PaddedLoop:
    """Tokens and masks are made beforehand; the model computes its own loss."""

    def train(self, run: Run) -> Trained:
        """Train."""
        tokenizer: Any = AutoTokenizer.from_pretrained(run.model)

        def tokenized(row: dict[str, list[dict[str, str]]]) -> dict[str, list[int]]:
            encoded: Any = tokenizer.apply_chat_template(
                row["messages"], return_dict=True, return_assistant_tokens_mask=True
            )
            ids, mask = encoded["input_ids"], encoded["assistant_masks"]
            return {
                "input_ids": ids,
                "labels": [token if said else -100 for token, said in zip(ids, mask, strict=True)],
            }

        rows = load_dataset("json", data_files=str(run.data), split="train", cache_dir=str(run.scratch))
        samples = in_order(rows, run.order).map(tokenized, remove_columns=["messages"])
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(run.model, dtype="float32"),
            args=TrainingArguments(**common_arguments(run)),
            train_dataset=samples,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )
        return Recorder().watch(trainer, run)
