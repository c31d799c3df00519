"""Rules about how long samples are, and what of them is learnt."""

from finetune_api.facts import Severity
from finetune_api.guide.case import Case
from finetune_api.guide.guideline import guideline

_SECTION = "Max sequence length"
_FIELD = "spec.hyperparameters.maxSeqLen"
_BLOCK_FIELD = "spec.hyperparameters.pretraining.blockSize"
# The guide's percentile: what lies beyond it may be lost without a warning.
_TOLERABLE_LOSS = 0.05
# How far above the 99th percentile the longest sample must be to be called an outlier.
_OUTLIER = 2
# Guide, "Pretraining mode".
_BLOCK_SIZE = 2048
_SHORT_BLOCK_SIZE = 512


@guideline(_SECTION, Severity.WARNING, _FIELD)
def max_seq_len_drops_many(case: Case) -> str | None:
    """Samples longer than maxSeqLen are left out: it should reach the 95th percentile of lengths at least, the 99th
    rather."""
    lost = _lost(case)
    return None if lost is None or _share(case) <= _TOLERABLE_LOSS else lost


@guideline(_SECTION, Severity.NOTE, _FIELD)
def max_seq_len_drops_few(case: Case) -> str | None:
    """A maxSeqLen between the 95th percentile of lengths and the longest sample leaves a few out: know how many."""
    lost = _lost(case)
    return None if lost is None or _share(case) > _TOLERABLE_LOSS else lost


def _share(case: Case) -> float:
    if case.data is None or case.data.dropped == 0:
        return 0.0
    return case.data.dropped / (case.data.samples + case.data.dropped)


def _lost(case: Case) -> str | None:
    if case.data is None or case.data.dropped == 0 or case.plan.max_seq_len is None:
        return None
    total = case.data.samples + case.data.dropped
    text = (
        f"{case.data.dropped:,} of {total:,} samples ({_share(case):.1%}) are longer than "
        f"{case.plan.max_seq_len:,} tokens and left out"
    )
    lengths = case.data.lengths
    context = None if case.model is None else case.model.context_length
    if context is not None and case.plan.max_seq_len >= context:
        return f"{text}: the model reads no more at a time. Split them, or take a model with a longer context"
    if lengths is None or lengths.max <= case.plan.max_seq_len:
        return f"{text}: raise it, or split them"
    keeping = ((lengths.p95, "95%"), (lengths.p99, "99%"), (lengths.max, "all"))
    reach = lengths.max if context is None else context
    more = [f"{length} keeps {part}" for length, part in keeping if case.plan.max_seq_len < length <= reach]
    if lengths.max > reach:
        more.append(f"split those that are longer than the {reach:,} that the model reads at a time")
    return f"{text}: {', '.join(more)}"


@guideline(_SECTION, Severity.NOTE, _FIELD)
def max_seq_len_outliers(case: Case) -> str | None:
    """Memory follows the longest sample. Where it is far longer than 99% of them, a lower maxSeqLen costs almost no
    data and saves memory and time."""
    if case.data is None or case.data.lengths is None or case.plan.max_seq_len is None:
        return None
    lengths = case.data.lengths
    longest = min(lengths.max, case.plan.max_seq_len)
    if lengths.p99 < 1 or longest <= _OUTLIER * lengths.p99:
        return None
    return (
        f"memory is planned for samples of {longest:,} tokens, and 99% of them have at most {lengths.p99:,}: "
        f"{lengths.p99:,} saves memory and leaves out at most 1%"
    )


@guideline(_SECTION, Severity.WARNING, _FIELD)
def max_seq_len_over_context(case: Case) -> str | None:
    """maxSeqLen should not reach beyond the model's context: on longer texts the model was never trained."""
    if case.model is None or case.recipe.hyperparameters.pretraining is not None:
        return None
    context, length = case.model.context_length, case.plan.max_seq_len
    if context is None or length is None or length <= context:
        return None
    return (
        f"{length:,} is more than the model's context of {context:,} tokens: set {context}, or leave it out"
    )


@guideline("Pretraining mode", Severity.WARNING, _BLOCK_FIELD)
def block_size_over_context(case: Case) -> str | None:
    """A block should not be longer than the model's context."""
    if case.model is None or case.recipe.hyperparameters.pretraining is None:
        return None
    context, size = case.model.context_length, case.recipe.hyperparameters.pretraining.block_size
    if context is None or size is None or size <= context:
        return None
    return f"{size:,} is more than the model's context of {context:,} tokens: set {min(context, _BLOCK_SIZE)}"


@guideline("Pretraining mode", Severity.NOTE, _BLOCK_FIELD)
def block_size_unusual(case: Case) -> str | None:
    """2048 tokens are a good size of a block to start with; 512 suit short or very many documents better."""
    pretraining = case.recipe.hyperparameters.pretraining
    if pretraining is None or pretraining.block_size is None:
        return None
    size = pretraining.block_size
    if size in (_BLOCK_SIZE, _SHORT_BLOCK_SIZE):
        return None
    effect = "needs more memory" if size > _BLOCK_SIZE else "tears documents into more pieces"
    return (
        f"a block of {size:,} tokens {effect}: 2048 is a good start, 512 suits short or very many documents"
    )


@guideline("Pretraining mode", Severity.NOTE, _BLOCK_FIELD)
def block_size_for_short_documents(case: Case) -> str | None:
    """Where most documents are shorter than 512 tokens, blocks of 512 suit better than larger ones."""
    pretraining = case.recipe.hyperparameters.pretraining
    if (
        pretraining is None
        or pretraining.block_size is None
        or case.data is None
        or case.data.lengths is None
    ):
        return None
    median = case.data.lengths.p50
    if median > _SHORT_BLOCK_SIZE or pretraining.block_size <= _SHORT_BLOCK_SIZE:
        return None
    size = pretraining.block_size
    return (
        f"half of the documents have at most {median:,} tokens: blocks of 512 suit them better than {size:,}"
    )


@guideline("Unmasking for knowledge data", Severity.NOTE, "spec.hyperparameters.unmaskMessages")
def unmask_for_knowledge(case: Case) -> str | None:
    """unmaskMessages is for knowledge that stands in the user's messages, as documents that questions are asked about:
    it is learnt far better. In other conversations it teaches the model to speak for the user."""
    if not case.recipe.hyperparameters.unmask_messages:
        return None
    return (
        "right for documents embedded in user messages; in ordinary conversations it teaches the model to speak for "
        "the user: then remove it"
    )


RULES = (
    max_seq_len_drops_many,
    max_seq_len_drops_few,
    max_seq_len_outliers,
    max_seq_len_over_context,
    block_size_over_context,
    block_size_unusual,
    block_size_for_short_documents,
    unmask_for_knowledge,
)
