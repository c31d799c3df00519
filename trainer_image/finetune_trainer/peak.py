"""The most memory that this process ever held."""

import re
import resource
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int:
    """Bytes that tensors took on a GPU, or that the whole process took in main memory, at the most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not ru_maxrss, which a child inherits from the process that started it.
    if _STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    # Where there is no /proc, which is macOS: it counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
