"""Pure: the memory of one GPU, or of one process where there is none, at the peak of a training step.

What the trainer holds is counted in each phase of a step, and the largest phase is the answer:

- loss: all activations are there, and the logits of one chunk of tokens with their gradients;
- backward: all activations are there, and what the backward pass of the last block needs;
- root: the gradients of embeddings and head, which come last and are the largest;
- update: AdamW changes the weights.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from enum import IntEnum

from finetune_api.activations import BF16, FP32, activations, number_width
from finetune_api.architecture import Architecture
from finetune_api.checkpoint_sizes import CheckpointSizes, checkpoint_sizes
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import Counts, counts, targets, trainable_parameters, unfrozen_rank

__all__ = [
    "CheckpointSizes",
    "Memory",
    "checkpoint_sizes",
    "decomposition_peak",
    "largest_token_budget",
    "memory",
    "trainable_parameters",
    "unfrozen_rank",
]

MIB = 2**20
# Tokens whose logits the trainer's loss holds at a time.
LOSS_CHUNK = 1024
# Most that maxTokensPerGpu can be.
MAX_TOKENS = 16_777_216


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, and what they are made of."""

    weights: int
    """The model's weights, adapters, and what is gathered or dequantised of them to compute with."""
    gradients: int
    """Gradients, and the buffers in which processes exchange them."""
    optimizer: int
    """AdamW's two moments of each trained weight, and what it computes with."""
    activations: int
    """What the backward pass needs of the forward pass, and its own values."""
    logits: int
    """Logits of one chunk of tokens, their gradients, and the sums of the head's gradient."""
    framework: int
    """The libraries, communication, and what fragmentation loses."""
    low: int
    """Least to expect."""
    high: int
    """Most to expect."""

    @property
    def estimate(self) -> int:
        """Sum of the parts."""
        return (
            self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.framework
        )


class _Case(IntEnum):
    """What is assumed where the plan does not tell."""

    LOW = 0
    """One micro-batch per step, so that no gradients are there before; communication at once, no fragmentation."""
    ESTIMATE = 1
    """Several micro-batches per step: gradients are there when the activations are."""
    HIGH = 2
    """Communication far ahead of computation, and much fragmentation; osft's frozen part also as whole matrices."""


@dataclass(frozen=True)
class _Phase:
    """Bytes in one phase of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self))


def memory(recipe: Recipe, architecture: Architecture, *, tokens: int, longest: int) -> Memory:
    """The peak for micro-batches of up to `tokens` tokens, of samples of up to `longest` tokens."""
    low, found, high = (
        max(_Step(recipe, architecture, tokens, longest, case).phases(), key=lambda phase: phase.total)
        for case in _Case
    )
    return Memory(
        weights=found.weights,
        gradients=found.gradients,
        optimizer=found.optimizer,
        activations=found.activations,
        logits=found.logits,
        framework=_framework(recipe, found.total, _Case.ESTIMATE),
        low=low.total + _framework(recipe, low.total, _Case.LOW),
        high=high.total + _framework(recipe, high.total, _Case.HIGH),
    )


def largest_token_budget(
    recipe: Recipe, architecture: Architecture, *, longest: int, limit: int
) -> int | None:
    """The largest maxTokensPerGpu whose estimate is at most `limit` bytes; None if not even `longest` tokens fit."""

    def fits(tokens: int) -> bool:
        return memory(recipe, architecture, tokens=tokens, longest=longest).estimate <= limit

    if not fits(longest):
        return None
    fitting, above = longest, max(longest, MAX_TOKENS) + 1
    while above - fitting > 1:
        middle = (fitting + above) // 2
        fitting, above = (middle, above) if fits(middle) else (fitting, middle)
    return fitting


def decomposition_peak(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes at the peak of the singular value decomposition of the largest target; 0 for methods without one.

    In fp32, for N x M with R = min(N, M): the matrix and the copy that LAPACK destroys (2 N M), the factors
    (R (N + M) + R), and the workspace of its gesdd (4 R^2 + 7 R, and 8 R integers).
    """
    if recipe.method != "osft":
        return 0
    sizes = ((each.outputs, each.inputs, each.rank) for each, _ in targets(recipe, architecture))
    return max((FP32 * (2 * n * m + r * (n + m) + 4 * r * r + 16 * r) for n, m, r in sizes), default=0)


@dataclass(frozen=True)
class _Step:
    """One optimizer step under the assumptions of a case."""

    recipe: Recipe
    architecture: Architecture
    tokens: int
    longest: int
    case: _Case

    def phases(self) -> Iterator[_Phase]:
        """What each phase holds."""
        recipe, architecture, numbers = self.recipe, self.architecture, counts(self.recipe, self.architecture)
        per_token = activations(recipe, architecture, longest=self.longest)
        optimizer = 2 * FP32 * numbers.trained // self._shares
        gradients = self._gradients(numbers)
        before = 0 if self.case is _Case.LOW else gradients
        # A model that is split has some blocks here, some elsewhere.
        blocks = -(-architecture.layers // recipe.split_over)
        saved = self.tokens * blocks * (per_token.input if recipe.on_gpu else per_token.block)
        repeated = self.tokens * per_token.block if recipe.on_gpu else 0
        ends = self.tokens * per_token.ends
        working = repeated + self.tokens * per_token.working
        head = self._head_gradient(numbers)

        yield _Phase(self._weights(numbers, blocks=0), before, optimizer, saved + ends, self._logits(numbers))
        yield _Phase(
            self._weights(numbers, blocks=1 + self.case),
            before + self._exchange(numbers),
            optimizer,
            saved + max(ends, working),
            head,
        )
        yield _Phase(self._weights(numbers, blocks=0), gradients + self._root(numbers), optimizer)
        yield _Phase(self._at_rest(numbers), gradients, optimizer + self._update(numbers))

    @property
    def _sharded(self) -> bool:
        """Whether FSDP divides weights, gradients and moments. A single process on the CPU keeps them whole."""
        return self.recipe.method != "lora" and (self.recipe.on_gpu or self.recipe.world_size > 1)

    @property
    def _shares(self) -> int:
        return self.recipe.world_size if self._sharded else 1

    def _at_rest(self, numbers: Counts) -> int:
        """Bytes of the weights between steps."""
        if self.recipe.method != "lora":
            return FP32 * (numbers.trained + numbers.frozen) // self._shares
        return FP32 * numbers.trained + base_bytes(self.recipe, self.architecture) // self.recipe.split_over

    def _weights(self, numbers: Counts, *, blocks: int) -> int:
        """Bytes of the weights in a forward or backward pass that has so many blocks in use."""
        if not self._sharded:
            return self._at_rest(numbers)
        if not self.recipe.on_gpu:
            return self._at_rest(numbers) + FP32 * (numbers.trained + numbers.frozen)
        gathered = numbers.root + blocks * numbers.blocks // self.architecture.layers
        return self._at_rest(numbers) + BF16 * gathered

    def _gradients(self, numbers: Counts) -> int:
        if self.recipe.method == "lora":
            return FP32 * numbers.trained * (2 if self.recipe.world_size > 1 else 1)
        if self._sharded and self.recipe.on_gpu:
            return FP32 * numbers.trained // self._shares
        return FP32 * numbers.trained

    def _exchange(self, numbers: Counts) -> int:
        """Bytes of one block's gradients on their way: whole, and in the fp32 buffer that is reduced."""
        if not self._sharded:
            return 0
        return (number_width(self.recipe) + FP32) * numbers.blocks_trained // self.architecture.layers

    def _root(self, numbers: Counts) -> int:
        if not self._sharded:
            return 2 * FP32 * numbers.root_trained
        return (number_width(self.recipe) + FP32) * numbers.root_trained

    def _head_gradient(self, numbers: Counts) -> int:
        head = self.architecture.vocabulary * self.architecture.hidden_size
        return number_width(self.recipe) * head if numbers.root_trained else 0

    def _logits(self, numbers: Counts) -> int:
        chunk = min(self.tokens, LOSS_CHUNK)
        logits = 3 * FP32 * chunk * self.architecture.vocabulary
        return logits + 2 * self._head_gradient(numbers)

    def _update(self, numbers: Counts) -> int:
        return FP32 * numbers.trained // self._shares if self.recipe.on_gpu else 0


def base_bytes(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes of lora's frozen model, of which every process has a whole copy unless it is split.

    Only the blocks' linear layers are quantised. 8 bits: one byte per weight and an fp32 scale per row. 4 bits (nf4
    with double quantisation): half a byte per weight; one byte of scale for each 64 weights, and for each 256 of
    those scales one in fp32, together 8/64 + 32/(64 x 256) = 0.127 bits per weight.
    """
    lora = recipe.lora
    quantised = rows = 0
    if lora.load_in_4bit or lora.load_in_8bit:
        quantised = sum(each.count * each.outputs * each.inputs for each in architecture.linears)
        rows = sum(each.count * each.outputs for each in architecture.linears)
    rest = number_width(recipe) * (architecture.parameters - quantised)
    if lora.load_in_4bit:
        return rest + quantised // 2 + quantised // 64 + FP32 * quantised // (64 * 256)
    return rest + quantised + FP32 * rows


def _framework(recipe: Recipe, held: int, case: _Case) -> int:
    if not recipe.on_gpu:
        return (500, 800, 1200)[case] * MIB
    return (500, 1024, 2048)[case] * MIB + held * (0, 5, 15)[case] // 100
