"""One training process, as torchrun starts it: puts the parts together, and tells how it ended."""

import logging
import os
import signal
import sys
from pathlib import Path

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.runconfig import RunConfig
from finetune_trainer import causes, checks
from finetune_trainer.errors import TerminatedError, TrainerError
from finetune_trainer.processes import die_with_parent

_log = logging.getLogger(__name__)


class StopRequest:
    """SIGTERM and SIGINT: at once while there is nothing to save, at the end of the step once there is."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def defer(self) -> None:
        """From now on only take note."""
        self._deferred = True

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if not self._deferred:
            raise TerminatedError("asked to stop before training began")


def main() -> None:
    """Train; ends the process with a code of finetune_api.failure."""
    die_with_parent()
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        stop = StopRequest()
        file = Path(sys.argv[1])
        _train(checks.load(file), file, stop)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and ends the process
        # Imported only now: most of it is there by the time that something can go wrong.
        from finetune_trainer.verdict import explain

        exit_code, message = explain(error)
        if exit_code == ExitCode.TERMINATED:
            _log.info("%s", message)
        else:
            _log.exception("rank %d ends with exit code %d", rank, exit_code)
        details = error.details if isinstance(error, TrainerError) else ()
        causes.leave(f"rank {rank}", exit_code, message, details)
        _leave(exit_code)
    _leave(ExitCode.SUCCESS)


def _leave(exit_code: int) -> None:
    """End at once: threads of a collective that will never complete must not hold the process up."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _train(config: RunConfig, file: Path, stop: StopRequest) -> None:
    # Heavy imports, after the reaction to signals is in place.
    from finetune_trainer.train import train

    train(
        config,
        attempt=int(os.environ.get(names.ENV_ATTEMPT, "1")),
        ca=file.parent / names.REPORT_CA_FILE,
        token=Path(names.TOKEN_DIR) / names.TOKEN_FILE,
        begin=stop.defer,
        stop_requested=lambda: stop.requested,
    )


if __name__ == "__main__":
    main()
