"""What earlier attempts of a run have settled for the later ones."""

from typing import Annotated

from pydantic import Field

from finetune_api.memory import Mode
from finetune_api.memory.modes import modes
from finetune_api.model import ApiModel
from finetune_api.recipe import Recipe
from finetune_api.status import Choice

# How the reason of a budget begins that experience, and not an estimate, has set.
HALVED = "halved after running out of memory"
BUDGET_FIELD = "spec.hyperparameters.maxTokensPerGpu"


class TokenBudget(ApiModel):
    """What a run came down to by running out of memory, and on what hardware: on other hardware it tells nothing."""

    max_tokens_per_gpu: Annotated[int, Field(ge=1)] | None = None
    """Half of the budget that did not fit, but room for the longest sample; None where the estimate is to tell."""
    activation_checkpointing: bool
    """Whether activations are recomputed."""
    accumulate_locally: bool
    """Whether gradients stay whole."""
    reason: Annotated[str, Field(max_length=512)]
    """What happened, for people."""
    world_size: int
    """Training processes over all pods."""
    on_gpu: bool
    """Whether each of them had a GPU."""
    gpu_memory: int | None = None
    """Bytes of one GPU, as far as stated."""

    @property
    def mode(self) -> Mode:
        """How steps are carried out."""
        return Mode(self.activation_checkpointing, self.accumulate_locally)

    def holds_for(self, recipe: Recipe) -> bool:
        """Whether a job would run out of memory just the same."""
        found_on = (self.world_size, self.on_gpu, self.gpu_memory)
        return found_on == (recipe.world_size, recipe.on_gpu, recipe.gpu_memory) and self.mode in modes(
            recipe
        )


class Precedents(ApiModel):
    """All of it. Nothing, for a run that has not begun."""

    chosen: list[Choice] = []
    """What the guide chose when the run began, except for what follows from the hardware."""
    budget: TokenBudget | None = None
    """What the run came down to."""

    def choice(self, field: str) -> Choice | None:
        """What was chosen for a field, from `spec` on."""
        return next((choice for choice in self.chosen if choice.field == field), None)


NONE = Precedents()
