"""What a run was made with: it decides, beside the manifest, whether a repetition has the same bits."""

import platform
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import ValidationError

from finetune_api.model import ApiModel
from finetune_trainer import commit
from finetune_trainer.distributed import Gang
from finetune_trainer.storage import Storage

# What computes, and this trainer itself, whose package has the name of the whole.
_PACKAGES = ("finetune-operator", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers")


class Environment(ApiModel):
    """Software and hardware of an attempt."""

    software: dict[str, str]
    """Versions, by the names of packages."""
    devices: dict[str, int]
    """How many of each kind all processes have: GPUs, or without any the processors that they run on."""
    threads: int
    """Threads of each process that compute on its CPU."""

    @classmethod
    def of(cls, gang: Gang) -> "Environment":
        """The environment of a gang. Every process calls it."""
        mine = [_name(device) for device in gang.devices]
        everyone = [name for theirs in gang.collect(mine) for name in theirs]
        return cls(software=_software(), devices=Counter(everyone), threads=torch.get_num_threads())

    @classmethod
    def read(cls, storage: Storage) -> "Environment | None":
        """That of the attempt that made the run's result; None where it is not known."""
        try:
            return cls.model_validate_json(storage.environment.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def keep(self, storage: Storage) -> None:
        """Write it down, for whoever writes about the run after its end."""
        commit.replace_file(storage.environment, self.model_dump_json(by_alias=True))


def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    return found


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    """What Linux calls the processor; elsewhere its architecture."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return f"CPU {found[1]}" if found else f"CPU {platform.machine()}"
