"""Pure: what is to be saved after which step."""

from dataclasses import dataclass

from finetune_api.spec import Checkpoints


@dataclass(frozen=True)
class Due:
    """What is to be saved after a step."""

    weights: bool
    """An ordinary model."""
    full_state: bool
    """Model and optimizer state, for good."""
    resume: bool
    """State for restarts."""


@dataclass(frozen=True)
class Cadence:
    """When one run saves what."""

    wanted: Checkpoints
    steps_per_epoch: int
    total_steps: int

    def overdue(self, age: float) -> bool:
        """Whether the newest state for restarts is too old, `age` in seconds."""
        return age >= self.wanted.every_minutes * 60

    def due(self, step: int, *, overdue: bool) -> Due:
        """What is to be saved after so many steps; `overdue` is what all processes were told of the newest state."""
        ends_epoch = step % self.steps_per_epoch == 0
        full_state = ends_epoch and self.wanted.full_state_at_epoch
        counted = self.wanted.every_steps is not None and step % self.wanted.every_steps == 0
        return Due(
            weights=ends_epoch and self.wanted.every_epoch,
            full_state=full_state,
            # A restart goes on from a full state as well; and the result takes the place of the last state.
            resume=(ends_epoch or counted or overdue) and not full_state and step < self.total_steps,
        )
