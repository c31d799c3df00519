"""The merging of an adapter without a job: for one whose run could not, or that was not asked to."""

import logging
import sys
from pathlib import Path

from finetune_api.failure import ExitCode
from finetune_trainer import checks
from finetune_trainer.alone import explain, ignore_signals, stop_on_signals
from finetune_trainer.by_hand import WRITER, expect_directory_to_make
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.ends.signals import Stop
from finetune_trainer.merging import WORDS, merge_into
from finetune_trainer.noise import leave_out_noise


def merge_by_hand(model: Path, adapter: Path, output: Path, stop: Stop) -> int:
    """Merge the adapter of a directory into a model, into another one; returns an exit code of finetune_api.failure."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    leave_out_noise()
    logging.captureWarnings(True)
    try:
        stop_on_signals(stop, WORDS)
        made = _merge(model, adapter, output)
        ignore_signals()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and ends the process
        ignore_signals()
        failure = explain(error, WORDS)
        sys.stderr.write(f"finetune-trainer: {failure.message}\n")
        return failure.exit_code
    sys.stdout.write(f"merged in {output}: {made:,} bytes\n")
    return ExitCode.SUCCESS


def _merge(model: Path, adapter: Path, output: Path) -> int:
    """Returns the size of all that was made."""
    checks.check_model(model, f"--model {model}", weights=True)
    checks.check_adapter(adapter, f"--adapter {adapter}")
    expect_directory_to_make(output)
    if output.exists() and any(output.iterdir()):
        raise InvalidConfigurationError(
            f"--output {output} is not empty: name another directory, or empty it"
        )
    return merge_into(model, adapter, output, uid=None, writer=WRITER, facts={}, tick=lambda: None).bytes
