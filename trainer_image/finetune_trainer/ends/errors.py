"""Why training ends early: each kind of end knows its exit code."""

import errno
import signal
from collections.abc import Sequence
from pathlib import Path

from finetune_api.failure import ExitCode
from finetune_api.report import Failure


class KnownEnd(BaseException):
    """An end with a cause that the trainer knows; the message says what to do about it."""

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        """`details` are every single fault, as far as there is room."""
        super().__init__(message)
        self.details = details

    @property
    def failure(self) -> Failure:
        """As a Report tells it."""
        return Failure.of(self.exit_code, str(self), self.details)


class TrainerError(KnownEnd, Exception):
    """An end because something went wrong."""


class InvalidConfigurationError(TrainerError):
    """The job asks for what cannot be."""

    exit_code = ExitCode.INVALID_CONFIGURATION


class InvalidDataError(TrainerError):
    """The training data cannot be trained on."""

    exit_code = ExitCode.INVALID_DATA


class UntrustedFileError(TrainerError):
    """A file that can run code when it is read."""

    exit_code = ExitCode.UNTRUSTED_FILE


class AccessDeniedError(TrainerError):
    """A file may not be read or written."""

    exit_code = ExitCode.ACCESS_DENIED


class StorageFullError(TrainerError):
    """The storage volume is full."""

    exit_code = ExitCode.STORAGE_FULL


class LossNotFiniteError(TrainerError):
    """The loss or its gradient is no longer a number."""

    exit_code = ExitCode.LOSS_NOT_FINITE


class PeerLostError(TrainerError):
    """Another process of the gang went away or does not answer."""

    exit_code = ExitCode.COLLECTIVE_TIMEOUT


class MissingGpuError(TrainerError):
    """The node shows fewer GPUs than it was to have."""

    exit_code = ExitCode.GPU_ERROR


class WorkerDiedError(TrainerError):
    """A process that helped to prepare the data went away in the middle of its work."""

    def __init__(self, code: int | None) -> None:
        """`code` is its exit code, negative for a signal."""
        if code == -signal.SIGKILL:
            self.exit_code = ExitCode.KILLED
            how = "was killed, most likely for want of memory: raise the memory limit, or lower the CPU limit for fewer"
        elif code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        super().__init__(f"a worker process that prepared the data {how}")


class TerminatedError(KnownEnd):
    """The process was asked to stop, and did.

    No Exception, for the reason for which KeyboardInterrupt is none: it comes up in the midst of any library's code,
    and what a library makes of errors it would make of this one, too.
    """

    exit_code = ExitCode.TERMINATED


def of_system(error: OSError, what: str) -> TrainerError:
    """An error of the operating system, by what it means to the job; `what` says what was being done."""
    message = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(message)
    if isinstance(error, PermissionError):
        return AccessDeniedError(message)
    return TrainerError(message)


def described(source: object, here: Path) -> str:
    """A source (see finetune_api.sources) in the words of the spec, and where it appears to this process."""
    return f'{source} (here "{here}")'
