"""What went wrong, as an exit code and a sentence."""

from collections.abc import Iterator

import torch
from torch.distributed import DistError

from finetune_api.failure import ExitCode
from finetune_trainer.errors import (
    AccessDeniedError,
    PeerLostError,
    StorageFullError,
    TrainerError,
    of_system,
)

# gloo has no error class of its own.
_GLOO = ("gloo", "Connection closed by peer", "Connection reset by peer")
# Libraries in other languages pass on the system's words only.
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
# What may end another thread or process, and has a class of its own.
_KINDS = {kind.exit_code: kind for kind in (AccessDeniedError, PeerLostError, StorageFullError)}


def explain(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code of an exception, looking at those behind it too, and a sentence for people."""
    for one in _chain(error):
        if isinstance(one, TrainerError):
            return one.exit_code, str(one)
        if isinstance(one, torch.OutOfMemoryError):
            return ExitCode.OUT_OF_MEMORY, _words(one)
        if any(words in str(one) for words in _FULL_WORDS):
            return ExitCode.STORAGE_FULL, "the storage volume is full; what was complete on it is still there"
        if isinstance(one, OSError) and (known := of_system(one, "")).exit_code != ExitCode.ERROR:
            return known.exit_code, _words(one)
        if isinstance(one, DistError) or (
            isinstance(one, RuntimeError) and any(w in str(one) for w in _GLOO)
        ):
            return ExitCode.COLLECTIVE_TIMEOUT, f"another process of the gang went away: {_words(one)}"
        if isinstance(one, torch.AcceleratorError):
            return ExitCode.GPU_ERROR, _words(one)
    return ExitCode.ERROR, _words(error)


def relayed(exit_code: ExitCode, message: str) -> TrainerError:
    """An error for what `explain` said of another one: in another process, or of a class that nobody knows there."""
    error = _KINDS.get(exit_code, TrainerError)(message)
    error.exit_code = exit_code
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__context__, one.__cause__]


def _words(error: BaseException) -> str:
    # Messages of native code may carry pages of their own stack.
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
