"""What takes one process long is no reason to take it for dead: models and states are read from slow volumes."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from finetune_trainer import commit
from finetune_trainer.distributed import Gang
from finetune_trainer.methods import sft
from finetune_trainer.model import load_config
from tiny import save_tiny_model
from trainer.states import advance, checkpoints_in, save, small, together

# What a collective waits, which is more than one process lags behind the other on a busy machine, and what is slower.
PATIENCE, SLOW = 10.0, 25.0
# No exit code of a process that fails, of which `together` tells instead of what it found.
STEP = 500


def slowed(work: Callable[..., Any], gang: Gang) -> Callable[..., Any]:
    """The same, slow on rank 0."""

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(SLOW if gang.is_first else 0)
        return work(*given, **named)

    return slow


def be_impatient() -> None:
    """Have collectives of the whole gang wait no longer than that."""
    assert dist.group.WORLD is not None
    dist.set_timeout(timedelta(seconds=PATIENCE), dist.group.WORLD)


def read_a_model(gang: Gang, base: Path) -> int:
    """How many numbers the model has that rank 0 read slowly."""
    be_impatient()
    vars(sft)["load"] = slowed(vars(sft)["load"], gang)
    model = sft.build(base, load_config(base), gang, activation_checkpointing=False)
    return sum(weight.numel() for weight in model.parameters())


def read_a_state(gang: Gang, directory: Path) -> int:
    """The step of the state that is found intact, which takes rank 0 long."""
    state = small(gang)
    advance(state)
    save(checkpoints_in(directory, gang), state, STEP)
    be_impatient()
    vars(commit)["condition"] = slowed(commit.condition, gang)
    return checkpoints_in(directory, gang).restore(small(gang)).step


def test_the_others_wait_for_a_model_that_takes_long_to_read(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    one, other = together(2, read_a_model, tmp_path / "model")
    assert one == other > STEP


def test_the_others_wait_for_a_share_of_a_state_that_takes_long_to_read(tmp_path: Path) -> None:
    assert together(2, read_a_state, tmp_path) == [STEP, STEP]
