"""A run's data, prepared and measured as for training, without training."""

import sys
import tempfile
from pathlib import Path

from finetune_api.failure import ExitCode
from finetune_trainer import checks
from finetune_trainer.errors import TrainerError
from finetune_trainer.planning import gather, known_context_length, model_facts
from finetune_trainer.prepare.pipeline import load, prepare
from finetune_trainer.storage import Storage


def measure(file: Path) -> int:
    """Print what is found as JSON (finetune_api.measured); returns an exit code of finetune_api.failure.

    The RunConfig's storage is not touched.
    """
    try:
        config = checks.load(file)
        model = model_facts(Path(config.locations.model))
        length = known_context_length(config, model.architecture.context_length if model else None)
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            storage = Storage(Path(scratch), scratch, config.uid)
            directory = prepare(config, storage, length, lambda: None)
            facts = gather(config, load(directory, storage), length, lambda: None)
    except TrainerError as error:
        sys.stderr.write(f"finetune-trainer: {error}\n")
        return error.exit_code
    sys.stdout.write(facts.measured.model_dump_json(by_alias=True, exclude_none=True) + "\n")
    return ExitCode.SUCCESS
