"""What a run leaves to people: directories that other programs load."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.model import load_config
from finetune_trainer.sources.model_files import USE

# An upload that is cut goes on with the file that it was at.
LARGEST_FILE = "5GB"

Format = Literal["model", "adapter"]
Describe = Callable[[Path, Format, int], None]
"""Writes what is told of a result into its directory, before that is complete: told are what it is, and the step whose
weights it has."""


def nothing(directory: Path, format: Format, step: int) -> None:
    """A Describe that tells nothing."""


class Result(Protocol):
    """What training leads to, at any moment of it."""

    format: Format
    """See status.Output."""

    def weights(self, *, keep: bool, tick: Callable[[], None]) -> dict[str, Tensor]:
        """Its weights as they are now, copied to main memory, where `keep` says so; else nothing.

        Every process takes part. `tick` is called after each weight.
        """
        ...

    def write(self, weights: dict[str, Tensor], into: Path) -> None:
        """Write such weights, and all that loading them takes. From any thread."""
        ...


class WholeModel:
    """An ordinary Hugging Face model: config, safetensors, and what the base model has to tell of text and its use."""

    format: Format = "model"

    def __init__(self, hf: PreTrainedModel, base: Path, dtype: torch.dtype | None = None) -> None:
        """`hf` was made of the model in `base`. Its weights are stored as `dtype`, or else in the type of those."""
        self._hf = hf
        self._base = base
        # What `hf` says of it is the type that it has in training.
        self._dtype = dtype or stored_dtype(base, load_config(base))

    def weights(self, *, keep: bool, tick: Callable[[], None]) -> dict[str, Tensor]:
        """All weights under their names, tied ones once."""
        result: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, value in self._hf.state_dict(keep_vars=True).items():
            if id(value) in seen:
                continue
            seen.add(id(value))
            whole = value.detach()
            if isinstance(whole, DTensor):
                whole = whole.full_tensor()
            if keep:
                dtype = self._dtype if whole.is_floating_point() else whole.dtype
                result[name] = whole.to("cpu", dtype, copy=True)
            tick()
        return result

    def write(self, weights: dict[str, Tensor], into: Path) -> None:
        """Write the model's files."""
        self._hf.save_pretrained(into, state_dict=weights, max_shard_size=LARGEST_FILE)
        # save_pretrained writes down the type that the model has in training.
        config = self._hf.config.to_dict() | {"dtype": str(self._dtype).removeprefix("torch.")}
        type(self._hf.config).from_dict(config).save_pretrained(into)
        # What transformers has written of the model's use is made up, where it was made of its configuration alone.
        for name in USE:
            if (self._base / name).exists():
                shutil.copyfile(self._base / name, into / name)
        copy_tokenizer(self._base, into)


def stored_dtype(directory: Path, config: PreTrainedConfig) -> torch.dtype:
    """The type in which the model of this configuration, in this directory, keeps its weights.

    Raises InvalidConfigurationError where neither the configuration nor any weight tells.
    """
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - what is opened is no mapping
                # Older models have the masks of their attention among the weights, as truth values or whole numbers.
                if (tensor := weights.get_tensor(name)).is_floating_point():
                    dtype: torch.dtype = tensor.dtype
                    return dtype
    raise InvalidConfigurationError("spec.model: its safetensors hold no floating-point numbers")


def copy_tokenizer(base: Path, into: Path) -> None:
    """Write the tokenizer of a base model to where a result lies."""
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(into)
