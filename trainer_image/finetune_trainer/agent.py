"""torchrun for one node, as a process of its own, so that the container's first process stays light."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence

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
    workers = _Workers()
    options = parse_args(list(arguments))
    try:
        run(options)
    except (ChildFailedError, SignalException) as end:
        # Nothing is left to stop, and what happened is yet to be told.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Whoever asks this node to stop may do so because of what has happened here a moment ago.
        for rank, number in workers.ended_by_signals():
            causes.leave(
                f"signal to rank {rank}",
                causes.from_signal(number),
                f"the training process of rank {rank} was ended by {signal.Signals(number).name}",
                signal=number,
            )
        return ExitCode.TERMINATED if isinstance(end, SignalException) else ExitCode.ERROR
    except DistError as error:
        message = (
            f"the {options.nnodes} nodes of the gang did not come together at {options.master_addr}, port "
            f"{options.master_port}: {symptoms.first_line(str(error))}"
        )
        causes.leave("torchrun", ExitCode.COLLECTIVE_TIMEOUT, message, log=traceback.format_exc())
        raise
    return ExitCode.SUCCESS


class _Workers:
    """The processes that torchrun starts, and which of them it has asked to go.

    When one fails, it asks the others, and kills those that do not end soon, as a rank does that waits in a collective
    for ever. It lists them among the failures, but they explain nothing.
    """

    def __init__(self) -> None:
        """Watch those to come."""
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._asked: set[int] = set()
        popen, close = SubprocessHandler._popen, SubprocessHandler.close

        def noting_start(
            handler: SubprocessHandler, args: tuple[str, ...], env: dict[str, str]
        ) -> subprocess.Popen[bytes]:
            process = self._started[int(env["RANK"])] = popen(handler, args, env)
            return process

        def noting_close(handler: SubprocessHandler, death_sig: signal.Signals | None = None) -> None:
            self._asked.add(handler.proc.pid)
            close(handler, death_sig)

        SubprocessHandler._popen = noting_start  # type: ignore[method-assign, assignment]
        SubprocessHandler.close = noting_close  # type: ignore[method-assign, assignment]

    def ended_by_signals(self) -> Iterator[tuple[int, int]]:
        """Rank and signal of each that was ended by one which came from elsewhere."""
        for rank, process in self._started.items():
            code = process.poll()
            if code is not None and code < 0 and process.pid not in self._asked:
                yield rank, -code


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
