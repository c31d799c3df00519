#!/usr/bin/env python3
"""Show what training has changed: `compare.py BASE TUNED HELDOUT`.

HELDOUT is a JSONL file of rows that neither model was trained on. Both are asked the longest of the questions, and
their loss is taken on all answers, as training takes it: the answer and its end-of-turn token, nothing else.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

MAX_NEW_TOKENS = 80

Message = dict[str, str]


@dataclass(frozen=True)
class Result:
    """What is known of one model."""

    loss: float
    answer: str


def evaluate(directory: Path, rows: list[list[Message]], example: list[Message]) -> Result:
    """Mean loss per token of the last message of each row, and what the model itself says last in `example`."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        losses = torch.cat([token_losses(model, tokenizer, row) for row in rows])
        question = tokenizer.apply_chat_template(
            example[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        generated = model.generate(**question, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0]
    new = generated[question["input_ids"].shape[1] :]
    finished = bool(new[-1] == tokenizer.eos_token_id)
    answer = tokenizer.decode(new, skip_special_tokens=True).strip()
    return Result(losses.mean().item(), answer if finished else f"{answer} …")


def token_losses(model: Any, tokenizer: Any, messages: list[Message]) -> torch.Tensor:
    """Cross-entropy of every token of the last message and of the end-of-turn token after it; shape (tokens,)."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    tokens = tokenizer.apply_chat_template(messages, return_dict=False)
    assert tokens[: len(prompt)] == prompt, "the chat template does not put the answer after the prompt"
    # What the template writes after the end of the turn is nothing that a model would have to say.
    end = len(tokens) - tokens[::-1].index(tokenizer.eos_token_id)
    input_ids = torch.tensor([tokens[:end]])
    logits = model(input_ids=input_ids).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, input_ids[0, len(prompt) :], reduction="none")


@click.command()
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("tuned", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("heldout", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(base: Path, tuned: Path, heldout: Path) -> None:
    """Compare the models in BASE and TUNED on the rows of HELDOUT."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [json.loads(line)["messages"] for line in heldout.read_text(encoding="utf-8").splitlines()]
    example = max(rows, key=lambda row: len(row[-2]["content"]))
    console = Console()
    results = []
    for name, directory in (("base", base), ("tuned", tuned)):
        with Status(f"Asking the {name} model", console=console):
            results.append(evaluate(directory, rows, example))

    *_, question, expected = example
    table = Table("", "Base model", "Tuned model", show_lines=True)
    table.add_row(f"Loss on {len(rows)}\nheld-out answers", *(f"{result.loss:.3f}" for result in results))
    # Text, because brackets in answers are not markup.
    table.add_row("Answer", *(Text(result.answer) for result in results))
    console.print("Question:", Text(question["content"]))
    console.print("The data set's own answer:", Text(expected["content"]), sep="\n")
    console.print(table)


if __name__ == "__main__":
    main()
