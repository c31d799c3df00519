"""What processes do for one another, and do without."""

import ctypes
import logging
import os
import signal
import sys
from typing import NoReturn

_ENV_PARENT = "FINETUNE_PARENT"
_PR_SET_PDEATHSIG = 1


def parent_environment() -> dict[str, str]:
    """What a child needs in its environment to call `die_with_parent`."""
    return {_ENV_PARENT: str(os.getpid())}


def die_with_parent() -> None:
    """Have the system kill this process when its parent is gone. Only Linux can; elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ[_ENV_PARENT]):  # it went before the system was asked
        os.kill(os.getpid(), signal.SIGKILL)


def end_at_once(exit_code: int) -> NoReturn:
    """End this process: threads of a collective that will never complete must not hold it up."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def leave_out_torch() -> None:
    """Have transformers' tokenizers do without torch in this process, unless it is there already.

    They need it for nothing, and would spend seconds and half a GiB of every process on it.
    """
    if "torch" in sys.modules:
        return
    # What is None there counts as not installed. transformers looks once, and remembers; others must find it.
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        from transformers.utils import is_torch_available

        is_torch_available()
    finally:
        del sys.modules["torch"]
