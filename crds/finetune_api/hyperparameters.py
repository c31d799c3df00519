"""How to train: what all methods have in common."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.model import Rule, SpecModel

MAX_TOKENS_PER_GPU = 16_777_216


class Pretraining(SpecModel):
    """Training on documents instead of conversations."""

    block_size: Annotated[int, Field(ge=8, le=1048576)] | None = None
    """Tokens of a block. Documents are joined and cut into blocks of this size; a block is a sample."""
    document_column_name: Annotated[str, Field(min_length=1, max_length=128)] = "document"
    """Key of a line's object under which the document is found."""

    rules = (
        Rule(
            cel="has(self.blockSize)",
            message="blockSize is required: 2048 is a good start, 512 is better for short or very many documents",
            holds=lambda pretraining: pretraining.block_size is not None,
        ),
    )


class Hyperparameters(SpecModel):
    """How to train. What is left out is chosen by the guide and shown, with its reason, in status.plan."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate."""
    effective_batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Samples per optimizer step over all GPUs, exactly."""
    num_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Passes over the training data."""
    max_seq_len: Annotated[int, Field(ge=8, le=1048576)] | None = None
    """Longest sample in tokens. Longer ones are dropped and counted, never cut."""
    max_tokens_per_gpu: Annotated[int, Field(ge=8, le=MAX_TOKENS_PER_GPU)] | None = None
    """Token budget of one micro-batch on one GPU; bounds memory, never changes the result."""
    lr_scheduler: Literal["constant", "cosine", "linear"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=1000000)] = 0
    """Optimizer steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW: decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW: decay of the second moment."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """AdamW: term added to the denominator."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000000)] = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Seed of the sample order."""
    max_steps: Annotated[int, Field(ge=1, le=100000000)] | None = None
    """End after this many optimizer steps even if epochs remain."""
    pretraining: Pretraining | None = None
    """Train on documents instead of conversations. For sft and osft."""
    unmask_messages: bool = False
    """Take loss on everything but system messages, not on the assistant's words alone: for knowledge that stands in
    the user's messages. For sft and osft."""

    rules = (
        Rule(
            cel="!has(self.maxTokensPerGpu) || !has(self.maxSeqLen) || self.maxTokensPerGpu >= self.maxSeqLen",
            message="maxTokensPerGpu must be at least maxSeqLen, for the longest sample to fit: "
            "raise maxTokensPerGpu, lower maxSeqLen, or leave maxTokensPerGpu out",
            holds=lambda h: (
                h.max_tokens_per_gpu is None or h.max_seq_len is None or h.max_tokens_per_gpu >= h.max_seq_len
            ),
        ),
        Rule(
            cel="!has(self.pretraining) || !self.unmaskMessages",
            message="unmaskMessages speaks of conversations and pretraining of documents, where loss is taken on "
            "everything: remove one of them",
            holds=lambda h: h.pretraining is None or not h.unmask_messages,
        ),
        Rule(
            cel="!has(self.pretraining) || !has(self.maxSeqLen)",
            message="maxSeqLen speaks of conversations; documents are cut into blocks of pretraining.blockSize tokens: "
            "remove maxSeqLen",
            holds=lambda h: h.pretraining is None or h.max_seq_len is None,
        ),
        Rule(
            cel="!has(self.pretraining) || !has(self.pretraining.blockSize) || !has(self.maxTokensPerGpu) "
            "|| self.maxTokensPerGpu >= self.pretraining.blockSize",
            message="maxTokensPerGpu must be at least pretraining.blockSize, for a block to fit: raise "
            "maxTokensPerGpu, lower blockSize, or leave maxTokensPerGpu out",
            holds=lambda h: (
                h.pretraining is None
                or h.pretraining.block_size is None
                or h.max_tokens_per_gpu is None
                or h.max_tokens_per_gpu >= h.pretraining.block_size
            ),
        ),
    )
