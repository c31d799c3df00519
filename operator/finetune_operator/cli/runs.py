"""Which run a word of the command line means."""

from pathlib import Path

from finetune_operator.cli.errors import CommandError


def on_this_machine(run: str, namespace: str | None, *, or_file: bool = False) -> Path | None:
    """The directory of a run that `run` names, or with `or_file` a file; None where it is a job on a cluster.

    With a namespace it always is one, whatever lies here under that name. Raises CommandError for a path to nothing.
    """
    path = Path(run)
    if namespace is None and (path.exists() if or_file else path.is_dir()):
        return path
    if "/" in run:
        raise CommandError(f"there is no {'file or ' if or_file else ''}directory {run}")
    return None
