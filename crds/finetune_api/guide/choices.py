"""What to choose where the spec is silent, and why. Whatever depends on facts that are not known yet stays open."""

from dataclasses import dataclass

from finetune_api.facts import DataFacts, ModelFacts
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import ALPHA_PER_RANK, LORA_R, UNFREEZE_RANK_RATIO, unfrozen_rank
from finetune_api.units import billions

# Guide, "unfreeze_rank_ratio": "8B+ scale". What is sold as 8B has 7.9 to 8.4 billion weights, what is sold as 7B up to
# 7.6 billion.
LARGE_MODEL = 7_800_000_000
# Guide, "Effective batch size": its last step.
LARGE_DATASET = 10_000
SMALL_DATASET = 1_000
# Guide, "Number of epochs": start with 2-3.
NUM_EPOCHS = (2, 3)


@dataclass(frozen=True)
class Chosen:
    """A value for a field that the spec leaves open."""

    value: int | float
    reason: str


@dataclass(frozen=True)
class LearningRates:
    """Where to start, and how far to go at most."""

    low: float
    start: float
    high: float


# Guide, "Learning rate": the table. For sft and osft the middle is where one step of two down leads.
_FULL = LearningRates(low=1e-6, start=5e-6, high=5e-6)
_MIDDLE = 2e-6
LEARNING_RATES: dict[str, LearningRates] = {
    "sft": _FULL,
    "osft": _FULL,
    "lora": LearningRates(low=1e-5, start=1e-5, high=1e-4),
}


def rate(value: float) -> str:
    """A learning rate as people write it: 5e-6."""
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def learning_rate(recipe: Recipe, model: ModelFacts | None, data: DataFacts | None) -> Chosen:
    """5e-6 for sft and osft; 2e-6 if the model is large (8B and up) or the data are (more than 10,000 samples); 1e-6 if
    both are. 1e-5 for lora."""
    rates = LEARNING_RATES[recipe.method]
    if recipe.method == "lora":
        return Chosen(rates.start, "where lora starts; up towards 1e-4 only if the model underfits")
    large = large_things(model, data)
    span = f"{recipe.method} starts between {rate(rates.high)} and {rate(rates.low)}"
    if large:
        value = _MIDDLE if len(large) == 1 else rates.low
        return Chosen(value, f"{span}, lower for {' and '.join(large)}")
    unknown = [
        name for name, fact in (("the model's size", model), ("the size of the data", data)) if fact is None
    ]
    doubt = f"; lower if {' or '.join(unknown)} turns out to be large" if unknown else ""
    return Chosen(rates.start, span + doubt)


def judging(model: ModelFacts | None) -> str:
    """To stand behind what is said of a model: where its size is a guess, that it is one."""
    return ", judging by the model's name" if model is not None and model.is_guess else ""


def large_things(model: ModelFacts | None, data: DataFacts | None) -> list[str]:
    """What asks for a lower learning rate, in words."""
    found = []
    if data is not None and data.samples > LARGE_DATASET:
        found.append(f"{data.samples:,} samples")
    if model is not None and model.architecture.parameters >= LARGE_MODEL:
        found.append(f"{billions(model.architecture.parameters)} weights{judging(model)}")
    return found


@dataclass(frozen=True)
class BatchSizes:
    """Samples per optimizer step that suit a data set."""

    low: int
    high: int | None
    """None: as many as there is hardware for."""

    def __str__(self) -> str:
        if self.high is None:
            return f"{self.low} or more"
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


def batch_sizes(samples: int) -> BatchSizes:
    """The guide's table: what suits a data set of so many samples."""
    if samples < SMALL_DATASET:
        return BatchSizes(32, 64)
    if samples <= LARGE_DATASET:
        return BatchSizes(128, 128)
    return BatchSizes(256, None)


def effective_batch_size(recipe: Recipe, data: DataFacts | None) -> Chosen | None:
    """32 below 1,000 samples, 128 up to 10,000, 256 above. More, as far as that suits the data, where otherwise a
    process had nothing to do; never more than there are samples.

    Open until the number of samples is known.
    """
    if data is None:
        return None
    sizes = batch_sizes(data.samples)
    value = max(sizes.low, min(recipe.world_size, sizes.high or recipe.world_size))
    if data.samples < value:
        return Chosen(max(1, data.samples), "all samples at once: there are fewer than a batch should have")
    reason = f"{sizes} suit {data.samples:,} samples"
    if value > sizes.low:
        reason += f", and each of {recipe.world_size} processes needs one"
    return Chosen(value, reason)


def num_epochs(recipe: Recipe) -> Chosen:
    """2. More than 3 risk overfitting."""
    return Chosen(NUM_EPOCHS[0], "2 or 3 are a good start; more risk overfitting")


def max_seq_len(recipe: Recipe, model: ModelFacts | None, data: DataFacts | None) -> Chosen | None:
    """The length of the longest sample, so that none is left out, as far as the model's context reaches.

    Open until the data are measured, and for documents, which are cut into blocks.
    """
    if data is None or data.lengths is None or recipe.hyperparameters.pretraining is not None:
        return None
    longest = data.lengths.max
    context = None if model is None else model.context_length
    if context is not None and longest > context:
        return Chosen(context, f"the model's context; the longest sample has {longest:,} tokens")
    return Chosen(longest, "the longest sample: none is left out")


def unfreeze_rank_ratio(recipe: Recipe, model: ModelFacts | None) -> Chosen | None:
    """0.5, for models of every size: it balances learning and keeping what the model knows.

    None for other methods.
    """
    if recipe.method != "osft":
        return None
    reason = "balances learning and keeping what the model knows"
    if model is not None:
        reason += f"; trains {directions(model, UNFREEZE_RANK_RATIO)}"
    return Chosen(UNFREEZE_RANK_RATIO, reason)


def directions(model: ModelFacts, ratio: float) -> str:
    """How many directions of a matrix as wide as the model a ratio trains, in words."""
    width = model.architecture.hidden_size
    return f"{unfrozen_rank(width, width, ratio):,} of {width:,} directions per matrix{judging(model)}"


def lora_r(recipe: Recipe) -> Chosen | None:
    """16.

    None for other methods.
    """
    if recipe.method != "lora":
        return None
    return Chosen(LORA_R, "where to start; 32 or 64 if the model underfits")


def lora_alpha(recipe: Recipe) -> Chosen | None:
    """Twice r.

    None for other methods.
    """
    if recipe.method != "lora":
        return None
    r = LORA_R if recipe.lora.r is None else recipe.lora.r
    return Chosen(ALPHA_PER_RANK * r, f"twice r, which is {r}")
