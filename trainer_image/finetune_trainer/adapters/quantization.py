"""Holding the frozen model in 8 or 4 bits per weight, by bitsandbytes."""

import torch
from transformers import BitsAndBytesConfig

from finetune_api.methods import Lora


def quantization(lora: Lora, device: torch.device) -> BitsAndBytesConfig | None:
    """How the blocks' linear layers are held; None where they stay as wide as they are."""
    if lora.load_in_4bit:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if lora.load_in_8bit else None
