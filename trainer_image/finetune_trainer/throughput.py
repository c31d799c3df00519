"""Pure: what a step has to compute, and how that compares with what the hardware could.

The count follows PaLM (Chowdhery et al. 2022, appendix B): what the model's mathematics need, not what an
implementation happens to do. So activations that are computed again in the backward pass do not count, and neither
does padding. It departs from PaLM where that would flatter: attention is causal, so half of its products do not exist,
and logits are needed only for tokens that loss is taken on.
"""

import re

import numpy as np
import numpy.typing as npt

from finetune_api.architecture import Architecture

# A multiplication and an addition per weight and token, forward once and backward twice.
_PER_WEIGHT = 6
# Query times key and attention times value, 2 each per pair of tokens and number of a head; backward twice; half of it.
_PER_PAIR = 6

# Peaks in bfloat16 with fp32 accumulation on dense matrices, in TFLOP/s, by NVIDIA's data sheets. Words of the name by
# which the driver calls the card; the first row counts whose words are all in it.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500),
    ("B300", 2250),
    ("B200", 2250),
    ("GH200", 989.4),
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("H100 NVL", 835.5),
    ("H100 PCIe", 756),
    # The PCIe card under another name: the SXM one has HBM3.
    ("H100 HBM2e", 756),
    ("H100", 989.4),
    ("H20", 148),
    ("A100", 312),
    ("A800", 312),
    ("A30", 165),
    ("A40", 149.7),
    ("A10G", 70),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 6000 Ada", 364.2),
    ("RTX A6000", 154.8),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.2),
)


def step_flops(architecture: Architecture, lengths: npt.NDArray[np.integer], loss_tokens: int) -> float:
    """FLOPs of one optimizer step over samples of these lengths in tokens, all weights being trained.

    Six per weight of the blocks and token, six per weight of the output head and token that loss is taken on, and
    6 x layers x heads x head size x the sum of the squared lengths for attention. Embeddings are looked up, which
    computes nothing. Layers whose attention reaches back only so far are counted as if it reached to the start.
    """
    exact = lengths.astype(np.float64)
    blocks = sum(linear.parameters for linear in architecture.linears) + architecture.other_parameters
    head = architecture.vocabulary * architecture.hidden_size
    attention = architecture.layers * architecture.attention_heads * architecture.head_size
    return float(
        _PER_WEIGHT * (blocks * exact.sum() + head * loss_tokens)
        + _PER_PAIR * attention * np.square(exact).sum()
    )


def peak_flops(device: str) -> float | None:
    """What a GPU of that name (torch.cuda.get_device_name) can do, in FLOP/s; None for one that is not known.

    A slice of a GPU (MIG) is not known: its name tells how much memory it has, not how much of the peak.
    """
    words = set(re.split(r"[\s-]+", device))
    if "MIG" in words or "Laptop" in words:
        return None
    for name, teraflops in _PEAKS:
        if words.issuperset(name.split()):
            return teraflops * 1e12
    return None


def utilization(flops: float, seconds: float, gpus: int, peak: float) -> float:
    """Model FLOPs utilization of so many GPUs with that peak each."""
    return flops / (seconds * gpus * peak)
