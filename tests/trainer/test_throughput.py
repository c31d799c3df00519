"""What a step has to compute, against what torch counts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.architecture import from_config
from finetune_trainer.throughput import step_flops

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen2.5-0.5b", "phi-4", "gpt2"])
def test_flops_are_those_that_torch_counts_in_a_step_without_attention(name: str) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    architecture = from_config(config)
    tokens = 1024
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), attn_implementation="eager", dtype=torch.float32
        )
        ids = torch.zeros(1, tokens, dtype=torch.long)
        everything = torch.zeros(1, 1, tokens, tokens)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=everything, use_cache=False).logits.sum().backward()
    heads = architecture.layers * architecture.attention_heads * architecture.head_size
    # Eager attention computes all pairs of tokens, the later half in vain.
    expected = counter.get_total_flops() - 6 * heads * tokens**2
    found = step_flops(architecture, np.array([tokens]), tokens)
    # Norms and biases, which torch does not count as products of matrices.
    assert found == pytest.approx(expected, rel=5e-3)
