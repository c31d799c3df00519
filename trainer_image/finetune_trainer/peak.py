"""The most memory that this process ever held."""

import re
import resource
from collections.abc import Sequence
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(devices: Sequence[torch.device]) -> int:
    """Bytes that tensors took on that of the GPUs where they took the most, at any time so far.

    On the CPU, what the whole process took in main memory.
    """
    if devices[0].type == "cuda":
        return max(torch.cuda.max_memory_allocated(device) for device in devices)
    # Not ru_maxrss, which a child inherits from the process that started it.
    if _STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    # Where there is no /proc, which is macOS: it counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
