"""The course of a run, of the files that its trainer wrote."""

from pathlib import Path

from finetune_api import names
from finetune_operator.cli import run_files
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.plotting.series import Course, of_records


def read(path: Path) -> Course:
    """The course of a run: of its directory, or of its file of steps, beside which that of evaluations lies.

    Raises CommandError where there is none.
    """
    directory = path if path.is_dir() else path.parent
    steps = directory / names.METRICS_FILE if path.is_dir() else path
    if not steps.exists():
        raise CommandError(
            f"there is no {names.METRICS_FILE} in {directory}: name the directory of a run on its claim, which is "
            f"spec.storage.path in it, or a job on a cluster"
        )
    found = run_files.steps(steps)
    if not found:
        raise CommandError(f"{steps} has no optimizer step (yet)")
    # A copy has a name of its own.
    name = directory.resolve().name if steps.name == names.METRICS_FILE else steps.name
    return of_records(name, found, run_files.evaluations(directory))
