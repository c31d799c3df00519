"""The merging of an adapter without a job: for one whose run could not, or that was not asked to."""

from pathlib import Path

from finetune_trainer import checks
from finetune_trainer.alone import without_run
from finetune_trainer.by_hand import WRITER, expect_directory_to_make
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.ends.signals import Stop
from finetune_trainer.merging import WORDS, merge_into


def merge_by_hand(model: Path, adapter: Path, output: Path, stop: Stop) -> int:
    """Merge the adapter of a directory into a model, into another one; returns an exit code of finetune_api.failure."""
    return without_run(WORDS, stop, lambda: f"merged in {output}: {_merge(model, adapter, output):,} bytes\n")


def _merge(model: Path, adapter: Path, output: Path) -> int:
    """Returns the size of all that was made."""
    checks.check_model(model, f"--model {model}", weights=True)
    checks.check_is_whole(model, f"--model {model}", weights=True)
    checks.check_adapter(adapter, f"--adapter {adapter}")
    expect_directory_to_make(output)
    if output.exists() and any(output.iterdir()):
        raise InvalidConfigurationError(
            f"--output {output} is not empty: name another directory, or empty it"
        )
    return merge_into(model, adapter, output, uid=None, writer=WRITER, facts={}, tick=lambda: None).bytes
