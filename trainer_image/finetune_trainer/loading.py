"""Reading models that other programs wrote: whole, or refused in words."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_trainer.ends import symptoms
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.ends.out_of_memory import ran_out_of_memory

# Of many weights, so many are named.
_NAMED = 3


def load_model(directory: Path, what: str, **options: Any) -> PreTrainedModel:
    """A model with all of its weights from the files of a directory; `options` are those of transformers.

    Where a weight is not in the files, that library goes on with random numbers. Raises InvalidConfigurationError,
    which begins with `what`, if any is missing or of another shape, or if a file cannot be read.
    """
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # Otherwise which these are is told in the log alone.
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise InvalidConfigurationError(f"{what}: cannot load the model: {words(error)}") from error
    hf: PreTrainedModel
    hf, report = found
    faults = {
        "not there": sorted(report["missing_keys"]),
        "of another shape than config.json says": sorted(name for name, *_ in report["mismatched_keys"]),
    }
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise InvalidConfigurationError(
                f"{what}: of its weights, {', '.join(names[:_NAMED])}{more} are {fault}: the files are damaged, not "
                "complete, or those of another model. Put the model there again"
            )
    return hf


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error of a library that reads files is no fault of these."""
    native = isinstance(error, RuntimeError) and symptoms.of_native_code(str(error)) is not None
    return native or ran_out_of_memory(error)


def words(error: Exception) -> str:
    """An error in a line."""
    return symptoms.first_line(str(error)) or type(error).__name__
