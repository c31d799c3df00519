"""`finetune-trainer merge` in processes that are forked from one that has imported everything: they start at once."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from finetune_api import names
from finetune_api.runconfig import RunConfig
from trainer.forked import FORKS
from trainer.gangs import PATIENCE, End


def merge_run(config: RunConfig, beforehand: Callable[[int], None] | None = None) -> End:
    """Merge the adapter of a run; `beforehand` is called in the process before it begins, with 0."""
    scratch = Path(config.locations.storage).with_name(f".{config.name}-merge")
    scratch.mkdir(exist_ok=True)
    file = scratch / names.RUN_CONFIG_FILE
    file.write_text(config.to_json())
    return merge(scratch, "--config", str(file), beforehand=beforehand)


def merge(scratch: Path, *arguments: str, beforehand: Callable[[int], None] | None = None) -> End:
    """Run the command; `scratch` takes what it prints."""
    output, end = scratch / "output", scratch / "end"
    output.unlink(missing_ok=True)
    end.write_text("")
    process = FORKS.Process(target=_run, args=(arguments, str(output), str(end), beforehand), daemon=True)
    process.start()
    try:
        process.join(PATIENCE)
        assert process.exitcode is not None, output.read_text()
        return End(process.exitcode, end.read_text(), output.read_text())
    finally:
        process.kill()
        process.join()


def _run(arguments: tuple[str, ...], output: str, end: str, beforehand: Callable[[int], None] | None) -> None:
    import torch

    from finetune_trainer.main import main

    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(handle, standard)
    os.environ[names.ENV_TERMINATION_LOG] = end
    # A process that multiprocessing made ignores what the fork server ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if beforehand:
        beforehand(0)
    main(["merge", *arguments])
