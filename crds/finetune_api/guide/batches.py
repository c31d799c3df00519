"""Rules about batch size and epochs."""

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.choices import NUM_EPOCHS, SMALL_DATASET, batch_sizes
from finetune_api.guide.guideline import guideline

_BATCH = "Effective batch size"
_EPOCHS = "Number of epochs"
_BATCH_FIELD = "spec.hyperparameters.effectiveBatchSize"
_EPOCHS_FIELD = "spec.hyperparameters.numEpochs"
# Micro-batches of a step from which on small hardware is worth a word.
_MANY_MICRO_BATCHES = 16


@guideline(_BATCH, Severity.NOTE, _BATCH_FIELD)
def batch_size_for_data(case: Case) -> str | None:
    """sft and osft take 32 to 64 samples per step from fewer than 1,000 samples, 128 from 1,000 to 10,000, and 256 or
    more from larger data sets."""
    size = case.plan.effective_batch_size
    if case.recipe.method == "lora" or case.data is None or size is None:
        return None
    sizes = batch_sizes(case.data.samples)
    if min(sizes.low, case.data.samples) <= size <= (sizes.high or size) or size > case.data.samples:
        return None
    return (
        f"{sizes} suit {case.data.samples:,} samples better than {size:,}: set {sizes.low}, or leave it out"
    )


@guideline(_BATCH, Severity.WARNING, _BATCH_FIELD)
def batch_size_over_data(case: Case) -> str | None:
    """A batch must not be larger than the data set: an epoch would be a single, smaller step."""
    size = case.plan.effective_batch_size
    if case.data is None or size is None or size <= case.data.samples:
        return None
    low = min(batch_sizes(case.data.samples).low, case.data.samples)
    return (
        f"{size:,} is more than the {case.data.samples:,} samples that there are: each epoch is a single step. "
        f"Set {low} or less, or leave it out"
    )


@guideline(_BATCH, Severity.WARNING, _BATCH_FIELD)
def batch_size_under_processes(case: Case) -> str | None:
    """A batch needs a sample for every process, or some of the GPUs have nothing to do."""
    size, processes = case.plan.effective_batch_size, case.plan.world_size
    if size is None or size >= processes:
        return None
    sizes = None if case.data is None else batch_sizes(case.data.samples)
    enough = case.data is None or case.data.samples >= processes
    raised = enough and (sizes is None or sizes.high is None or sizes.high >= processes)
    remedy = (
        f"set {processes:,} or more, or ask for fewer nodes and GPUs"
        if raised
        else "ask for fewer nodes and GPUs"
    )
    return f"{size:,} samples per step leave {processes - size:,} of {processes:,} processes without work: {remedy}"


@guideline("General advice", Severity.NOTE, _BATCH_FIELD)
def batch_size_on_small_hardware(case: Case) -> str | None:
    """Batch size and learning rate are scaled to the hardware. A batch of many micro-batches fits, for they are
    computed one after the other, and takes as much longer; smaller batches go with a lower learning rate."""
    micro = case.plan.micro_batches_per_step
    size = case.plan.effective_batch_size
    if micro is None or size is None:
        return None
    # Without measured lengths, the fewest that there can be: what is said is then true of any data.
    number = micro.min if micro.mean is None else micro.mean
    if number < _MANY_MICRO_BATCHES:
        return None
    return (
        f"a step of {size:,} samples takes {number:,.0f} micro-batches one after the other: it fits, but slowly. "
        "More GPUs, or a smaller batch with a lower learning rate, make steps faster"
    )


@guideline(_EPOCHS, Severity.WARNING, _EPOCHS_FIELD)
def epochs_many(case: Case) -> str | None:
    """sft and osft start with 2 or 3 epochs. More risk overfitting, above all on few samples: have
    evaluation.earlyStopping find where to stop, or compare validation losses."""
    epochs = case.plan.num_epochs
    if case.recipe.method == "lora" or epochs <= NUM_EPOCHS[1] or case.recipe.evaluation.early_stopping:
        return None
    few = ""
    if case.data is not None and case.data.samples < SMALL_DATASET:
        few = f", the more so with {case.data.samples:,} samples"
    return (
        f"{epochs:,} epochs risk overfitting{few}: start with 2 or 3, and add more only if the models of later epochs "
        "are better on data that was not trained on: evaluation.earlyStopping finds out"
    )


@guideline(_EPOCHS, Severity.NOTE, _EPOCHS_FIELD)
def epochs_few(case: Case) -> str | None:
    """sft and osft start with 2 or 3 epochs: one may not be enough to learn from."""
    if case.recipe.method == "lora" or case.plan.num_epochs >= NUM_EPOCHS[0]:
        return None
    return "one epoch may be too few: 2 or 3 are a good start"


RULES = (
    batch_size_for_data,
    batch_size_over_data,
    batch_size_under_processes,
    batch_size_on_small_hardware,
    epochs_many,
    epochs_few,
)
