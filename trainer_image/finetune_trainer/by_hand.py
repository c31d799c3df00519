"""The preparation of data without a job: for looking at what a model would be trained on."""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.hyperparameters import Hyperparameters
from finetune_api.sources import Columns
from finetune_api.status import DatasetStatus
from finetune_trainer import checks, commit
from finetune_trainer.alone import without_run
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.ends.signals import Stop
from finetune_trainer.preparing import WORDS, Shown

# Whoever shares the directory's parent writes under other names.
WRITER = "by-hand"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    model: Path
    data: Path
    output: Path
    hyperparameters: Hyperparameters
    columns: Columns
    drop_invalid: bool


def prepare_by_hand(options: Options, stop: Stop) -> int:
    """Prepare data into a directory; returns an exit code of finetune_api.failure."""
    return without_run(WORDS, stop, lambda: _summary(_prepare(options), options.output))


def _prepare(options: Options) -> DatasetStatus:
    checks.check_model(options.model, f"--model {options.model}", weights=False)
    checks.check_is_whole(options.model, f"--model {options.model}", weights=False)
    checks.check_data(options.data, f"--data {options.data}")
    _make_room(options.output)
    # Reading data takes libraries that a wrong path need not wait for.
    from finetune_trainer.planning import context_length
    from finetune_trainer.prepare.pipeline import build
    from finetune_trainer.prepare.task import Task

    stated = options.hyperparameters
    task = Task(
        model=options.model,
        files=(options.data,),
        origin=str(options.data),
        limit=stated.max_seq_len or context_length(options.model, stated),
        columns=options.columns,
        drop_invalid=options.drop_invalid,
        unmask_messages=stated.unmask_messages,
        pretraining=stated.pretraining,
    )
    identity = task.identity(lambda: None)
    return build(task, identity, options.output, writer=WRITER, progress=Shown()).status


def _make_room(output: Path) -> None:
    """Make sure that nothing is overwritten but what this command made before."""
    expect_directory_to_make(output)
    if output.exists() and any(output.iterdir()) and commit.read(output, uid=None) is None:
        raise InvalidConfigurationError(
            f"--output {output} is not empty, and holds no prepared data: name another directory, or empty it"
        )


def expect_directory_to_make(output: Path) -> None:
    """Make sure that a directory can take this place. Raises InvalidConfigurationError."""
    if output.exists() and not output.is_dir():
        raise InvalidConfigurationError(f"--output {output} is a file: name a directory that is to be made")
    if output.is_mount():
        raise InvalidConfigurationError(
            f"--output {output} is where a volume is mounted: name a directory inside it"
        )


def _summary(found: DatasetStatus, output: Path) -> str:
    lines = [
        f"{found.samples:,} samples" + (f"; left out: {found.left_out}" if found.left_out else ""),
        f"{found.tokens:,} tokens, loss on {found.loss_tokens:,} of them",
    ]
    if found.duplicates:
        what = "samples" if found.empty is None else "documents"
        lines.append(f"{found.duplicates:,} {what} are equal to an earlier one")
    if lengths := found.lengths:
        lines.append(
            f"tokens per sample: half have at most {lengths.p50:,}, 95 % {lengths.p95:,}, 99 % {lengths.p99:,}, "
            f"the longest {lengths.max:,}"
        )
    return "\n".join([*lines, f"prepared in {output}"]) + "\n"
