"""Weights & Biases: a run in the project of the account that WANDB_API_KEY opens, or in files (WANDB_MODE=offline)."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_trainer.trackers.tracker import Ending, Point, Run

if TYPE_CHECKING:
    import wandb

_KEY, _MODE, _PROJECT = "WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"
_DEFAULT_PROJECT = "finetune"
_START_SECONDS = 30


def is_wanted() -> bool:
    """Whether the environment lets us in, or wants files to upload later."""
    mode = os.environ.get(_MODE)
    return mode == "offline" or (bool(os.environ.get(_KEY)) and mode != "disabled")


class Wandb:
    """One run for all attempts."""

    name = "Weights & Biases"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._theirs: wandb.Run

    def begin(self, first_step: int) -> None:
        """Start the run, or go on with it. A history only grows: steps that it has are not logged again."""
        # Takes a second, and most runs do without.
        import wandb

        self._theirs = wandb.init(
            id=self._run.uid,
            name=self._run.name,
            project=os.environ.get(_PROJECT) or _DEFAULT_PROJECT,
            resume="allow",
            config=dict(self._run.parameters),
            # The root file system of a pod is read-only, and offline runs are to outlast it.
            dir=self._run.storage,
            settings=wandb.Settings(
                # What a pod prints is kept beside the run, and nobody agreed to its going elsewhere.
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                init_timeout=_START_SECONDS,
            ),
        )

    def log(self, points: Sequence[Point]) -> None:
        """Hand them to the service's own process."""
        for point in points:
            if point.step >= self._theirs.step:
                self._theirs.log(dict(point.values), step=point.step)

    def end(self, ending: Ending) -> None:
        """Upload what is left, and say how the attempt ended."""
        if ending is Ending.STOPPED:
            self._theirs.mark_preempting()
        self._theirs.finish(exit_code=0 if ending is Ending.FINISHED else 1)
        # The service's own process still writes its file, and would end with the container. Nobody else waits for it:
        # training processes end without Python's own leave-taking.
        import wandb

        try:
            wandb.teardown()
        except SystemExit as left:
            raise RuntimeError(f"its own process ended with exit code {left.code}") from left
