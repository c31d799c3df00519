"""A run's data, prepared and measured as for training, without training."""

import dataclasses
import logging
import sys
import tempfile
from pathlib import Path

from finetune_api.evaluation import VALIDATION
from finetune_api.failure import ExitCode
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks
from finetune_trainer.ends.errors import TrainerError
from finetune_trainer.planning import context_length, gather
from finetune_trainer.prepare.data_sets import prepare_all


def measure(file: Path) -> int:
    """Print what is found as JSON (finetune_api.measured); returns an exit code of finetune_api.failure.

    The RunConfig's storage is not touched, and the model's weights need not be there.
    """
    # What the preparation logs of faulty rows stands in its error, too.
    logging.disable()
    try:
        config = _with_what_is_here(checks.load(file))
        checks.check_inputs(config, weights=False)
        length = context_length(Path(config.locations.model), config.hyperparameters)
        with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
            prepared = prepare_all(_storing_in(scratch, config), length, lambda _: None).train
            # It is gone in a moment.
            status = prepared.status.model_copy(update={"path": None})
            facts = gather(config, dataclasses.replace(prepared, status=status), length, lambda: None)
    except TrainerError as error:
        sys.stderr.write(f"finetune-trainer: {error}\n")
        for detail in error.details:
            # The first ones stand in the message.
            if detail not in str(error):
                sys.stderr.write(f"  {detail}\n")
        return error.exit_code
    sys.stdout.write(facts.measured.model_dump_json(by_alias=True, exclude_none=True) + "\n")
    return ExitCode.SUCCESS


def _with_what_is_here(config: RunConfig) -> RunConfig:
    """Without data to evaluate on that nobody has said where to find: the plan does not depend on them."""
    here = config.locations.data
    dataset, evaluation = config.dataset, config.evaluation
    if VALIDATION not in here:
        dataset = dataset.model_copy(update={"validation": None})
    evaluation = evaluation.model_copy(update={"sets": [one for one in evaluation.sets if one.name in here]})
    return config.model_copy(update={"dataset": dataset, "evaluation": evaluation})


def _storing_in(directory: str, config: RunConfig) -> RunConfig:
    locations = config.locations.model_copy(update={"storage": str(Path(directory) / config.name)})
    return config.model_copy(update={"locations": locations})
