"""Pure: causes by the words of those who met them. Native code has no error classes, or one for everything."""

import re
from dataclasses import dataclass

from finetune_api.failure import ExitCode


@dataclass(frozen=True)
class Symptom:
    """Words, any of which point to a cause."""

    exit_code: ExitCode
    words: re.Pattern[str]
    meaning: str
    """What they say, for people."""


def _any(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE | re.DOTALL)


# In this order: what brings a collective down is often told in the same breath.
_NATIVE = (
    # What the driver, CUDA and torch say of a card that is broken, gone, or was never there.
    Symptom(
        ExitCode.GPU_ERROR,
        _any(
            r"\bXid\b",
            r"\bECC\b",
            "uncorrectable",
            "fallen off the bus",
            "GPU is lost",
            "hardware error",
            "is/are busy or unavailable",
            "no CUDA-capable device is detected",
            "No CUDA GPUs are available",
            "CUDA unknown error",
            "CUDA error: unknown error",
            "system not yet initialized",
        ),
        "the GPU failed",
    ),
    # What the program did there, though NCCL may be who says it.
    Symptom(
        ExitCode.ERROR,
        _any(
            "device-side assert",
            "illegal memory access",
            "illegal instruction",
            "misaligned address",
            "unspecified launch failure",
        ),
        "the program failed on the GPU",
    ),
    # The memory file system of a pod, which has nothing to do with any claim.
    Symptom(
        ExitCode.INVALID_CONFIGURATION,
        _any("/dev/shm.*No space left", "No space left.*/dev/shm", "unable to allocate shared memory"),
        "spec.resources.sharedMemory is too small",
    ),
    Symptom(
        ExitCode.OUT_OF_MEMORY,
        _any("CUDA out of memory", "CUDA error: out of memory", r"Cuda failure 2\b"),
        "the GPU's memory ran out",
    ),
)
_FULL = _any("No space left on device", "Disk quota exceeded")
_COLLECTIVE = (
    Symptom(
        ExitCode.COLLECTIVE_TIMEOUT,
        _any("timed out", "wait timeout", "collective operation timeout"),
        "another process of the gang did not answer in time",
    ),
    Symptom(
        ExitCode.COLLECTIVE_TIMEOUT,
        _any(
            "gloo",
            "Connection closed by",
            "Connection reset by",
            "Broken pipe",
            "remote process exited",
            "socket",
        ),
        "another process of the gang went away",
    ),
)


def of_native_code(text: str) -> Symptom | None:
    """What an error of native code points to."""
    return next((symptom for symptom in _NATIVE if symptom.words.search(text)), None)


def of_collectives(text: str) -> Symptom | None:
    """What an error of native code says of the other processes."""
    return next((symptom for symptom in _COLLECTIVE if symptom.words.search(text)), None)


def full(text: str) -> str | None:
    """The system's words for a volume that takes no more, if they are in there."""
    found = _FULL.search(text)
    return found and found.group()


def last_words(output: str) -> str | None:
    """What a process said that ended itself in native code, as the watchdog of NCCL does; the end of its output."""
    found = re.findall(r"^\s*what\(\):\s*(.+)$", output, re.MULTILINE)
    return found[-1] if found else None


def first_line(text: str) -> str:
    """The line that tells: native code adds pages of its own stack, and the place in its source before it."""
    line = text.strip().partition("\n")[0]
    return re.sub(r"^\[\S+\.(?:cc|cpp|h|hpp):\d+\]\s*", "", line)
