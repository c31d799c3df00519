"""Children that do not outlive their parent, so that nobody trains unsupervised."""

import ctypes
import os
import signal
import sys

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
