"""One training process, as it is started: puts the parts together, and tells how it ended."""

import gc
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks
from finetune_trainer.ends import causes
from finetune_trainer.ends.errors import KnownEnd
from finetune_trainer.ends.stopping import StopRequest
from finetune_trainer.noise import leave_out_noise
from finetune_trainer.processes import die_with_parent, end_at_once

_log = logging.getLogger(__name__)


def main() -> None:
    """Train; ends the process with a code of finetune_api.failure."""
    die_with_parent()
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(message)s", stream=sys.stderr
    )
    leave_out_noise()

    def end(exit_code: int, message: str, details: Sequence[str] = (), *, log: str | None = None) -> NoReturn:
        causes.leave(f"rank {rank}", exit_code, message, details, log=log)
        end_at_once(exit_code)

    stop = StopRequest(partial(end, ExitCode.TERMINATED))
    config = None
    try:
        file = Path(sys.argv[1])
        config = checks.load(file)
        _train(config, file, stop)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and ends the process
        # This is what is told, even if a signal comes now: peers that fail are often followed by one.
        stop.defer()
        # Imported only now: most of it is there by the time that something can go wrong.
        from finetune_trainer.ends.verdict import explain, said

        exit_code, message = explain(error, config)
        if exit_code == ExitCode.COLLECTIVE_TIMEOUT and stop.requested:
            # Whoever is asked to stop before training ends on the spot, and not all at the same moment.
            exit_code, message = (
                ExitCode.TERMINATED,
                "asked to stop, and another process of the gang went first",
            )
        if exit_code == ExitCode.TERMINATED:
            _log.info("%s", message)
        else:
            _log.exception("rank %d ends with exit code %d", rank, exit_code)
        details = error.details if isinstance(error, KnownEnd) else ()
        end(exit_code, message, details, log=said(error))
    end_at_once(ExitCode.SUCCESS)


def _train(config: RunConfig, file: Path, stop: StopRequest) -> None:
    # Heavy imports, after the reaction to signals is in place. Nothing of them is garbage, and looking for it takes a
    # tenth of their time.
    gc.disable()
    from finetune_trainer.train import train

    gc.freeze()
    gc.enable()
    train(
        config,
        attempt=int(os.environ.get(names.ENV_ATTEMPT, "1")),
        ca=file.parent / names.REPORT_CA_FILE,
        token=Path(names.TOKEN_DIR) / names.TOKEN_FILE,
        stop=stop,
    )


if __name__ == "__main__":
    main()
