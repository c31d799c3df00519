"""Pure: what one training process holds in each phase of an optimizer step.

- decomposition: osft's, before the first step;
- loading: lora's frozen model, before the first step, too;
- forward: the activations of all blocks, and what lora makes of a matrix for a moment;
- loss: the activations of all blocks, and the logits of one chunk of tokens with their gradients;
- backward: the activations of all blocks, and what the backward pass of the last ones needs, while the gradients of
  the block behind are reduced;
- exchange: the gradients of a block on their way to be reduced, when its backward pass is over;
- root: the gradients of embeddings and output head; they come last and are the largest;
- update: AdamW works in place. With osft the gradients of matrices become those of their factors before.

sft keeps weights, gradients and AdamW's two moments in fp32. FSDP2 divides them among processes: every block is a unit
that is gathered when it is needed, in bf16 on GPUs; embeddings and head are the root unit, which is needed from the
beginning to the end. A single process on the CPU has nothing to divide. osft's model is the same; what its processes
have besides is in subspaces.py. lora keeps a whole frozen model in every process, see adapters.py, and fp32 adapters:
their gradients are exchanged once per step, all together, in a copy.
The mode tells whether blocks keep their inputs alone, and whether whole gradients wait for the last micro-batch.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cached_property

from finetune_api.architecture import Architecture
from finetune_api.memory import adapters
from finetune_api.memory.activations import activations
from finetune_api.memory.cases import Case
from finetune_api.memory.modes import Mode
from finetune_api.memory.subspaces import Subspaces
from finetune_api.memory.widths import BF16, FP32, number_width
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import Counts, counts

# Tokens whose logits the loss holds at a time, by the bytes of a number in which the model computes. With each chunk
# the head is read, and its gradient read and written. With fewer tokens GPUs would wait for that; 1,024 take 0.6 GB
# for a vocabulary of 150,000. CPUs compute so slowly that it matters little.
LOSS_CHUNK = {BF16: 1024, FP32: 128}
# Words of the vocabulary whose gradient in the head is computed at a time, where that is not done in fp32.
LOSS_SLICE = 2048


@dataclass(frozen=True)
class Phase:
    """Bytes in one phase of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


@dataclass(frozen=True)
class Step:
    """One optimizer step with micro-batches of up to `tokens` tokens, of samples of up to `longest` tokens."""

    recipe: Recipe
    architecture: Architecture
    tokens: int
    longest: int
    mode: Mode
    case: Case

    def phases(self) -> Iterator[Phase]:
        """What each phase holds."""
        yield Phase(self._divided, 0, self._subspaces.decomposing)
        n, recipe, number = self._numbers, self.recipe, number_width(self.recipe)
        per_token = activations(recipe, self.architecture, longest=self.longest)
        blocks = self._blocks
        block = per_token.block + (per_token.windows if self.case is Case.HIGH else 0)
        checkpointing = self.mode.activation_checkpointing
        saved = self.tokens * blocks * (per_token.input if checkpointing else block)
        matrices = adapters.saved_matrices(recipe, self.architecture) // self.architecture.layers
        again = self.tokens * block + matrices if checkpointing else 0
        saved += 0 if checkpointing else blocks * matrices
        ends = self.tokens * per_token.ends
        working = self.tokens * per_token.working + again
        optimizer = self._updated(2 * FP32)
        before = 0 if self.case is Case.LOW else self._gradients
        head = number * self._head

        if recipe.method == "lora":
            yield Phase(self._at_rest + self._mapped, 0, 0)
            expanded = max(
                each(recipe, self.architecture) for each in (adapters.dequantised, adapters.measuring)
            )
            yield Phase(self._at_rest + expanded, before, optimizer, saved + again)
        yield Phase(self._in_use(self.case // 2), before, optimizer, saved + ends, self._logits)
        # Where gradients are whole and already there, the head's is added to them; tied weights wait for the rest.
        waiting = not self._whole or self.architecture.tied_embeddings or self.case is Case.LOW
        weights = self._in_use(1 + self.case)
        if recipe.method == "lora":
            weights += adapters.dequantised(recipe, self.architecture)
        logits = head if waiting else 0
        trained = n.blocks_trained // self.architecture.layers
        ahead = FP32 * trained if self._sharded and self.case is not Case.LOW else 0
        yield Phase(weights, before + ahead, optimizer, saved + max(ends, working), logits)
        yield Phase(weights, before + self._exchanged(trained), optimizer, saved, logits)
        if n.root_trained:
            yield from self._root(optimizer)
        reduced = self._divided * (2 if recipe.method == "lora" and recipe.world_size > 1 else 1)
        yield Phase(self._at_rest, reduced, optimizer + self._subspaces.pulling_back)
        yield Phase(self._at_rest, self._updated(FP32), optimizer + self._subspaces.measuring)

    @property
    def copied(self) -> int:
        """Bytes of this process's part of the state, which is copied in main memory before it is written.

        That memory is kept for the next state, so all phases have it, from the first one on that is saved.
        """
        return 0 if self.recipe.on_gpu or self.case is Case.LOW else self._updated(3 * FP32)

    @cached_property
    def _numbers(self) -> Counts:
        return counts(self.recipe, self.architecture)

    @cached_property
    def _subspaces(self) -> Subspaces:
        return Subspaces.of(self.recipe, self.architecture, self.case)

    def _updated(self, width: int) -> int:
        """Bytes of so many for each weight that this process's AdamW changes."""
        divided = self._numbers.trained - self._subspaces.dense
        return width * self._part(divided) + width * self._subspaces.trained

    @property
    def _sharded(self) -> bool:
        """Whether FSDP divides the model."""
        return self.recipe.method != "lora" and (self.recipe.on_gpu or self.recipe.world_size > 1)

    @property
    def _whole(self) -> bool:
        """Whether a process keeps whole gradients from one micro-batch to the next."""
        return (self.mode.accumulate_locally and self.case is not Case.LOW) or not self._sharded

    @property
    def _blocks(self) -> int:
        """Blocks that a GPU has: of a model that is split, some."""
        if self.recipe.method != "lora":
            return self.architecture.layers
        return adapters.most_blocks(self.recipe, self.architecture)

    def _part(self, numbers: int) -> int:
        """What lies on one GPU of so many trained weights, their gradients or moments."""
        if self._sharded:
            return numbers // self.recipe.world_size
        return numbers * self._blocks // self.architecture.layers

    @property
    def _divided(self) -> int:
        """Bytes of this process's part of the trained weights that a model computes with."""
        return FP32 * self._part(self._numbers.trained)

    @property
    def _at_rest(self) -> int:
        """Bytes of the weights between steps."""
        if self.recipe.method != "lora":
            return self._divided + FP32 * self._subspaces.factors
        return self._divided + adapters.base_bytes(self.recipe, self.architecture)

    def _in_use(self, blocks: int) -> int:
        """Bytes of the weights where so many blocks are gathered; on the CPU all of them are, for the whole step."""
        if not self._sharded:
            return self._at_rest
        n = self._numbers
        if not self.recipe.on_gpu:
            return self._at_rest + FP32 * n.trained
        layers = self.architecture.layers
        gathered = min(blocks, layers) * n.blocks_trained // layers
        return self._at_rest + BF16 * (n.root + gathered)

    @property
    def _mapped(self) -> int:
        """Bytes of the frozen model's files that are resident on the CPU until it is loaded, if it is held otherwise.

        The kernel takes them back where memory is short.
        """
        stored = self.architecture.stored_bytes
        as_stored = stored == FP32 and not self.recipe.lora.is_quantized
        if self.recipe.on_gpu or as_stored or self.case is Case.LOW:
            return 0
        return stored * self.architecture.parameters

    @property
    def _gradients(self) -> int:
        """Bytes of the gradients that one micro-batch leaves to the next: whole, or reduced to this process's part.

        FSDP2 adds them up in fp32 even where it computes in bf16.
        """
        return FP32 * self._numbers.trained if self._whole and self._sharded else self._divided

    def _exchanged(self, trained: int) -> int:
        """Bytes of the gradients of a unit with so many trained weights on their way.

        The whole gradients, then an fp32 copy to be reduced, then that copy and this process's part of the result.
        """
        if not self._sharded:
            return 0
        part = FP32 * self._part(trained)
        if self._whole:
            return FP32 * trained + part  # the whole ones are counted already
        return max((number_width(self.recipe) + FP32) * trained, FP32 * trained + part)

    def _root(self, optimizer: int) -> Iterator[Phase]:
        """The end of the backward pass, when activations are gone.

        The embedding's gradient is as large as the embedding, few tokens or many, and is then added to what is there:
        to earlier gradients, or, where the weights are tied, to the head's.
        """
        n, number = self._numbers, number_width(self.recipe)
        embedding = number * self.architecture.vocabulary * self.architecture.hidden_size
        head = embedding if self.architecture.tied_embeddings else 0
        if not self._sharded:
            yield Phase(self._at_rest, self._gradients + embedding + head, optimizer, logits=head)
            return
        blocks = FP32 * self._part(n.trained - n.root_trained)
        if self._whole:
            whole = FP32 * n.root_trained
        else:
            blocks += FP32 * self._part(n.root_trained)
            embedding, whole = head, number * n.root_trained
        yield Phase(
            self._at_rest + number * n.root, blocks + whole + embedding + head, optimizer, logits=head
        )
        exchanged = self._exchanged(n.root_trained) + (whole if self._whole else 0)
        yield Phase(self._at_rest, blocks + exchanged, optimizer)

    @property
    def _head(self) -> int:
        """Numbers in the gradient of the output head, where it is trained."""
        return (
            self.architecture.vocabulary * self.architecture.hidden_size if self._numbers.root_trained else 0
        )

    @property
    def _logits(self) -> int:
        """Bytes of the loss.

        A chunk's logits become their gradient where they are, in fp32, and the head's gradient is added up in fp32.
        Where the model computes in bf16, the gradients of a chunk's logits and of a slice of the head are there in
        bf16, too; and at the end the head's whole gradient.
        """
        number = number_width(self.recipe)
        logits = min(self.tokens, LOSS_CHUNK[number]) * self.architecture.vocabulary
        if number == FP32:
            return FP32 * (self._head + logits)
        some = min(self._head, LOSS_SLICE * self.architecture.hidden_size)
        return FP32 * self._head + max(FP32 * logits + number * (logits + some), number * self._head)
