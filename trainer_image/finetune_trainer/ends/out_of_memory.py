"""Running out of memory, as torch tells it."""

import gc
import traceback

import torch

# torch has no error class for main memory.
_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory for a tensor, on a GPU or in main memory, or Python none for an object."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    )


def release(error: BaseException) -> None:
    """Let go of the tensors in the frames that an exception came through: their memory is what is short."""
    traceback.clear_frames(error.__traceback__)


def give_back() -> None:
    """Give memory that nothing uses any more back to the GPU, and what only cycles hold to everybody."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
