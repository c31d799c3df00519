"""torchrun for one node, as a process of its own, so that the container's first process stays light."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.run import parse_args, run

from finetune_api.failure import ExitCode
from finetune_trainer.ends import causes, symptoms
from finetune_trainer.processes import die_with_parent, parent_environment


def main(arguments: Sequence[str]) -> int:
    """Run the workers; returns an exit code of finetune_api.failure.

    torchrun itself ends with 1 whatever its workers died of, and only it sees what signals did to them.
    """
    os.environ.update(parent_environment())
    killed = _note_kills()
    options = parse_args(list(arguments))
    try:
        run(options)
    except ChildFailedError as failed:
        for rank, failure in failed.failures.items():
            if failure.exitcode < 0 and failure.pid not in killed:
                number = -failure.exitcode
                message = f"the training process of rank {rank} was ended by {failure.signal_name()}"
                causes.leave(f"signal to rank {rank}", causes.from_signal(number), message, signal=number)
        return ExitCode.ERROR
    except SignalException:
        return ExitCode.TERMINATED
    except DistError as error:
        message = (
            f"the {options.nnodes} nodes of the gang did not come together at {options.master_addr}, port "
            f"{options.master_port}: {symptoms.first_line(str(error))}"
        )
        causes.leave("torchrun", ExitCode.COLLECTIVE_TIMEOUT, message, log=traceback.format_exc())
        raise
    return ExitCode.SUCCESS


def _note_kills() -> set[int]:
    """The processes that torchrun itself will have killed by the end.

    When one process fails it kills those that do not end soon, a rank that waits in a collective for ever, and lists
    them among the failures. They explain nothing.
    """
    killed: set[int] = set()
    close = SubprocessHandler.close

    def noting(handler: SubprocessHandler, death_sig: signal.Signals | None = None) -> None:
        if death_sig == signal.SIGKILL:
            killed.add(handler.proc.pid)
        close(handler, death_sig)

    SubprocessHandler.close = noting  # type: ignore[method-assign, assignment]
    return killed


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
