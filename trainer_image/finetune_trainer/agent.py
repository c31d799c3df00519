"""torchrun for one node, as a process of its own, so that the container's first process stays light."""

import os
import sys
from collections.abc import Sequence

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from finetune_api.failure import ExitCode
from finetune_trainer import causes
from finetune_trainer.processes import die_with_parent, parent_environment


def main(arguments: Sequence[str]) -> int:
    """Run the workers; returns an exit code of finetune_api.failure.

    torchrun itself ends with 1 whatever its workers died of, and only it sees what signals did to them.
    """
    os.environ.update(parent_environment())
    try:
        run(parse_args(list(arguments)))
    except ChildFailedError as failed:
        for rank, failure in failed.failures.items():
            if failure.exitcode < 0:
                message = f"the training process of rank {rank} was ended by {failure.signal_name()}"
                causes.leave(f"signal to rank {rank}", causes.from_signal(-failure.exitcode), message)
        return ExitCode.ERROR
    except SignalException:
        return ExitCode.TERMINATED
    except DistError as error:
        causes.leave("torchrun", ExitCode.COLLECTIVE_TIMEOUT, f"the gang did not come together: {error}")
        raise
    return ExitCode.SUCCESS


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
