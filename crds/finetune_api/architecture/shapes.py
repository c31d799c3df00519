"""Pure: the shapes of a dense causal language model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """A linear layer that every block of a model has."""

    name: str
    """Module name inside a block: "self_attn.q_proj"."""
    outputs: int
    """Size of what it gives: rows of W in y = W x, however W is stored."""
    inputs: int
    """Size of what it takes: columns of W."""
    count: int
    """How many the whole model has: one per block."""
    bias: bool

    @property
    def parameters(self) -> int:
        """Numbers in all `count` layers, biases included."""
        return self.count * self.outputs * (self.inputs + self.bias)

    @property
    def rank(self) -> int:
        """The largest rank that W can have."""
        return min(self.outputs, self.inputs)


@dataclass(frozen=True)
class Architecture:
    """Shapes of a model. Sizes are in numbers, not bytes."""

    model_type: str
    hidden_size: int
    layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    vocabulary: int
    context_length: int | None
    """Tokens that the model was made for; None where config.json does not tell."""
    tied_embeddings: bool
    """Whether the output head is the input embedding."""
    blocks: str
    """Module name of the list of blocks: a layer's full name is f"{blocks}.{index}.{linear.name}"."""
    linears: tuple[Linear, ...]
    """Linear layers of the blocks; the output head is not among them."""
    embedding_parameters: int
    """Input embedding, and learned positions where there are any."""
    head_parameters: int
    """Output head. Where it is tied: 0, or the bias that phi and gptj have."""
    other_parameters: int
    """Norms."""
    stored_bytes: int
    """Bytes of a number in the checkpoint's dtype: 2 or 4."""

    @property
    def parameters(self) -> int:
        """All numbers of the model; what is tied counts once."""
        linears = sum(linear.parameters for linear in self.linears)
        return linears + self.embedding_parameters + self.head_parameters + self.other_parameters
