"""Pure: the ways to carry out a step. They trade memory for time, and none changes the result."""

from dataclasses import dataclass

from finetune_api.recipe import Recipe


@dataclass(frozen=True)
class Mode:
    """How a process carries out a step."""

    activation_checkpointing: bool
    """Whether a block keeps only its input and repeats its forward pass in the backward pass: a third more
    arithmetic, for memory that no longer grows with all that the blocks compute."""
    accumulate_locally: bool
    """Whether gradients stay whole, in each process, until the last micro-batch of a step, and are exchanged once."""

    def __str__(self) -> str:
        activations = "recomputed" if self.activation_checkpointing else "kept"
        gradients = ", gradients exchanged once per step" if self.accumulate_locally else ""
        return f"activations {activations}{gradients}"

    def traffic(self, micro_batches: int) -> int:
        """Bytes that a process receives per weight and step of so many micro-batches, with FSDP2 on GPUs.

        Weights are gathered in bf16 for the forward and for the backward pass; gradients are reduced in fp32.
        """
        return micro_batches * 2 * 2 + 4 * (1 if self.accumulate_locally else micro_batches)


def modes(recipe: Recipe) -> tuple[Mode, ...]:
    """The modes that a job has: without activation checkpointing first, and the leanest last.

    The CPU has one: there, arithmetic is what is short. A process alone has nothing to exchange. The adapters of lora
    are whole in every process in any case.
    """
    several = recipe.world_size > 1
    if not recipe.on_gpu:
        return (Mode(activation_checkpointing=False, accumulate_locally=several),)
    choices = (True,) if recipe.method == "lora" else (True, False)
    return tuple(
        Mode(checkpointing, locally)
        for checkpointing in (False, True)
        for locally in (choices if several else (False,))
    )


def leanest(recipe: Recipe) -> Mode:
    """The mode that needs the least memory."""
    return modes(recipe)[-1]
