"""A run's data, prepared and measured as for training, without training."""

import logging
import sys
import tempfile
from pathlib import Path

from finetune_api.evaluation import TRAIN
from finetune_api.failure import ExitCode
from finetune_trainer import checks
from finetune_trainer.ends.errors import TrainerError
from finetune_trainer.planning import context_length, gather
from finetune_trainer.prepare.pipeline import build
from finetune_trainer.prepare.task import Task


def measure(file: Path) -> int:
    """Print what is found as JSON (finetune_api.measured); returns an exit code of finetune_api.failure.

    The RunConfig's storage is not touched, and the model's weights need not be there.
    """
    # What the preparation logs of faulty rows stands in its error, too.
    logging.disable()
    try:
        config = checks.load(file)
        checks.check_inputs(config, weights=False)
        length = context_length(Path(config.locations.model), config.hyperparameters)
        task = Task.of(config, TRAIN, length)
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            target = Path(scratch) / "data"
            prepared = build(
                task, task.digest(lambda: None), target, writer=config.uid, progress=lambda _: None
            )
            facts = gather(config, prepared, length, lambda: None)
    except TrainerError as error:
        sys.stderr.write(f"finetune-trainer: {error}\n")
        for detail in error.details:
            # The first ones stand in the message.
            if detail not in str(error):
                sys.stderr.write(f"  {detail}\n")
        return error.exit_code
    sys.stdout.write(facts.measured.model_dump_json(by_alias=True, exclude_none=True) + "\n")
    return ExitCode.SUCCESS
