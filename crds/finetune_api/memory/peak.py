"""Pure: the memory of one GPU, or of one process where there is none, at the peak of a training step."""

from dataclasses import asdict, dataclass

from finetune_api.architecture import Architecture
from finetune_api.hyperparameters import MAX_TOKENS_PER_GPU
from finetune_api.memory.cases import Case
from finetune_api.memory.modes import Mode
from finetune_api.memory.phases import Phase, Step
from finetune_api.memory.subspaces import decomposition
from finetune_api.recipe import Recipe
from finetune_api.trained_weights import factored

_MIB = 2**20


@dataclass(frozen=True)
class _Overhead:
    """What is there besides tensors: bytes, and percent of the tensors."""

    fixed: int
    percent: int


# GPU: the CUDA context with torch's kernels takes about half a GiB, and NCCL adds buffers for each of its channels:
# users report 1.06 GB for both on 8 H100 (NVIDIA/nccl#1685) and 1.6 GB (NVIDIA/nccl#864). Torch's allocator cuts
# tensors from segments, and what remains of these is lost: nothing at best, seldom more than 15 %.
_GPU = {
    Case.LOW: _Overhead(512 * _MIB, 0),
    Case.ESTIMATE: _Overhead(1024 * _MIB, 5),
    Case.HIGH: _Overhead(2048 * _MIB, 15),
}
# CPU: Python with torch, transformers, datasets and peft has 830 MiB resident, with a torch that can use GPUs; one
# that cannot has less. The C library's allocator keeps much of what is freed, and gloo copies what it sends: training
# SmolLM2-135M in two processes had up to 4.3 GB resident, where libraries and tensors make 3.4.
_CPU = {
    Case.LOW: _Overhead(400 * _MIB, 0),
    Case.ESTIMATE: _Overhead(830 * _MIB, 15),
    Case.HIGH: _Overhead(1200 * _MIB, 40),
}
# Beside a frozen model, what is saved lies between what comes and goes, and far more of the heap is kept: adapters of
# SmolLM2-135M had 2.4 GB resident, beside 4 bits as beside fp32, where libraries and tensors make 1.5 and 1.8.
_CPU_LORA = {
    Case.LOW: _Overhead(400 * _MIB, 0),
    Case.ESTIMATE: _Overhead(830 * _MIB, 60),
    Case.HIGH: _Overhead(1200 * _MIB, 160),
}


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, and what they are made of: the largest phase of a step, see phases.py."""

    weights: int
    """The model's weights, adapters, osft's factors, and what is gathered or expanded of them to compute with."""
    gradients: int
    """Gradients, and the buffers in which processes exchange them."""
    optimizer: int
    """AdamW's two moments of each trained weight, and what osft needs to compute with its factors."""
    activations: int
    """What the backward pass needs of the forward pass, and its own values."""
    logits: int
    """Logits of one chunk of tokens, their gradients, and the gradient of the output head."""
    framework: int
    """The libraries, communication, and what fragmentation loses."""
    saving: int
    """The copy of the state that is being saved."""
    low: int
    """Least to expect."""
    high: int
    """Most to expect."""

    @property
    def estimate(self) -> int:
        """Sum of the parts."""
        tensors = self.weights + self.gradients + self.optimizer + self.activations + self.logits
        return tensors + self.framework + self.saving


def memory(recipe: Recipe, architecture: Architecture, mode: Mode, *, tokens: int, longest: int) -> Memory:
    """The peak for micro-batches of up to `tokens` tokens, of samples of up to `longest` tokens.

    Loss is assumed to be taken on every token; where it is taken on a part, logits may need less.
    """
    steps = {case: Step(recipe, architecture, tokens, longest, mode, case) for case in Case}
    found = _peak(steps[Case.ESTIMATE])
    return Memory(
        **asdict(found),
        framework=_framework(recipe, found, Case.ESTIMATE),
        saving=steps[Case.ESTIMATE].copied,
        low=_need(steps[Case.LOW]),
        high=_need(steps[Case.HIGH]),
    )


def estimated(recipe: Recipe, architecture: Architecture, mode: Mode, *, tokens: int, longest: int) -> int:
    """The estimate of `memory` alone, for whoever tries many jobs."""
    return _need(Step(recipe, architecture, tokens, longest, mode, Case.ESTIMATE))


def largest_token_budget(
    recipe: Recipe, architecture: Architecture, mode: Mode, *, longest: int, limit: int
) -> int | None:
    """The largest maxTokensPerGpu whose estimate is at most `limit` bytes; None if not even `longest` tokens fit."""

    def fits(tokens: int) -> bool:
        return estimated(recipe, architecture, mode, tokens=tokens, longest=longest) <= limit

    if not fits(longest):
        return None
    fitting, above = longest, max(longest, MAX_TOKENS_PER_GPU) + 1
    while above - fitting > 1:
        middle = (fitting + above) // 2
        fitting, above = (middle, above) if fits(middle) else (fitting, middle)
    return fitting


def decomposition_peak(recipe: Recipe, architecture: Architecture) -> int:
    """Bytes at the peak of the singular value decomposition of the largest target; 0 for methods without one."""
    return max(map(decomposition, factored(recipe, architecture)), default=0)


def _need(step: Step) -> int:
    peak = _peak(step)
    return peak.total + _framework(step.recipe, peak, step.case) + step.copied


def _peak(step: Step) -> Phase:
    return max(step.phases(), key=lambda phase: phase.total)


def _framework(recipe: Recipe, phase: Phase, case: Case) -> int:
    overhead = (_GPU if recipe.on_gpu else _CPU_LORA if recipe.method == "lora" else _CPU)[case]
    return overhead.fixed + overhead.percent * phase.total // 100
