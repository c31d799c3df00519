"""What went wrong, as an exit code and a sentence."""

import traceback
from collections.abc import Iterator

from torch.distributed import DistError
from torch.distributed.checkpoint.api import CheckpointException

from finetune_api.failure import ExitCode
from finetune_api.runconfig import RunConfig
from finetune_trainer.ends import full_storage, symptoms
from finetune_trainer.ends.errors import (
    AccessDeniedError,
    KnownEnd,
    PeerLostError,
    StorageFullError,
    TrainerError,
)
from finetune_trainer.ends.out_of_memory import ran_out_of_memory

# What may end another thread or process, and has a class of its own.
_KINDS = {kind.exit_code: kind for kind in (AccessDeniedError, PeerLostError, StorageFullError)}

Verdict = tuple[ExitCode, str]


def explain(error: BaseException, config: RunConfig | None = None) -> Verdict:
    """The exit code of an exception, looking at those behind it too, and a sentence for people.

    `config` is that of the run, as far as it is known: it has the names of its claims.
    """
    found = [verdict for one in _chain(error) if (verdict := _explain(one, config))]
    # That the peers are gone explains nothing where there is anything else: whoever is in trouble loses them.
    causes = [verdict for verdict in found if verdict[0] != ExitCode.COLLECTIVE_TIMEOUT]
    return next(iter(causes or found), (ExitCode.ERROR, _words(error)))


def said(error: BaseException) -> str:
    """The traceback of an exception, without the stacks that native code adds to its messages."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("frame #", "Exception raised from ")))


def relayed(exit_code: ExitCode, message: str) -> TrainerError:
    """An error for what `explain` said of another one: in another process, or of a class that nobody knows there."""
    error = _KINDS.get(exit_code, TrainerError)(message)
    error.exit_code = exit_code
    return error


def _explain(error: BaseException, config: RunConfig | None) -> Verdict | None:
    """What a single exception tells of the cause, if anything."""
    text, native = str(error), isinstance(error, RuntimeError)
    if isinstance(error, KnownEnd) and not isinstance(error, StorageFullError):
        return error.exit_code, text
    if ran_out_of_memory(error):
        return ExitCode.OUT_OF_MEMORY, _words(error)
    if native and (symptom := symptoms.of_native_code(text)):
        return symptom.exit_code, f"{symptom.meaning}: {_words(error)}"
    if message := full_storage.said(error, config):
        return ExitCode.STORAGE_FULL, message
    if isinstance(error, PermissionError):
        return ExitCode.ACCESS_DENIED, _words(error)
    if native and (symptom := symptoms.of_collectives(text)):
        return symptom.exit_code, f"{symptom.meaning}: {_words(error)}"
    if isinstance(error, DistError):
        return ExitCode.COLLECTIVE_TIMEOUT, f"the processes of the gang lost one another: {_words(error)}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those behind it: what was being handled, and what other processes passed on."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__context__, one.__cause__]
        if isinstance(one, CheckpointException):
            todo += [failure for failure, _ in one.failures.values()]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions


def _words(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        rank, (failure, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {_words(failure)}"
    line = symptoms.first_line(str(error))
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
