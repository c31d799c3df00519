"""Pure: everything about a run that can be known before it, from what is stated and what is known of model and data.

Whatever is not known yet is absent from the plan; what had to be assumed is listed in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic.alias_generators import to_camel

from finetune_api import guide
from finetune_api.architecture import Architecture, named_size, typical
from finetune_api.checkpoint_sizes import checkpoint_sizes
from finetune_api.facts import DataFacts, Finding, ModelFacts, Severity
from finetune_api.guide.hardware import memory_exceeded
from finetune_api.guide.layers import is_name
from finetune_api.guide.lora import model_splitting_too_far
from finetune_api.hyperparameters import MAX_TOKENS_PER_GPU
from finetune_api.memory import Mode, estimated, fastest, largest_token_budget, leanest, memory, merge_memory
from finetune_api.model import SpecModel
from finetune_api.precedents import BUDGET_FIELD, NONE, Precedents
from finetune_api.recipe import USABLE_GPU_MEMORY, Recipe
from finetune_api.remedies import Remedy, remedies
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Advice, Choice, MemoryEstimate, MemoryParts, MicroBatches, Plan
from finetune_api.trained_weights import trainable_parameters
from finetune_api.units import billions, gib

Block = TypeVar("Block", bound=SpecModel)


# Token budgets that are chosen are multiples of this: nobody needs to be more exact than the estimate.
_ROUND = 256


@dataclass(frozen=True)
class Study:
    """What is known of a job before it runs."""

    plan: Plan
    findings: list[Finding]
    """What its rules have to say, the gravest first."""
    remedies: list[Remedy]
    """What to change if it does not fit its GPUs; empty if it does, or if nobody can tell."""
    model: ModelFacts | None
    """What was known of the model, or guessed."""


def study(spec: FineTuneJobSpec, model: ModelFacts | None = None, data: DataFacts | None = None) -> Study:
    """Plan a job and ask every rule about it.

    Without `model` its size is taken from its name, if that tells one.
    """
    return review(Recipe.of_spec(spec), model or model_by_name(spec), data)


def review(
    recipe: Recipe, model: ModelFacts | None, data: DataFacts | None, before: Precedents = NONE
) -> Study:
    """Plan a recipe and ask the guide about it; its warnings stand in the plan, too.

    `before` is what the run has settled already: neither the guide nor an estimate changes it.
    """
    if model is not None and model.is_guess:
        recipe = _without_patterns(recipe)
    settled, mode, chosen = _settled(recipe, model, data, before)
    planned = _counted(settled, mode, chosen, model, data)
    helpful = _remedies(recipe, settled, model, planned)
    findings = guide.advise(recipe, planned, model, data, remedies=[str(remedy) for remedy in helpful])
    # What the guide warns of, and what is certain to end a run.
    fatal = {model_splitting_too_far.id} | (
        {memory_exceeded.id} if _cannot_fit(recipe, model, planned) else set()
    )
    findings = [
        replace(finding, severity=Severity.ERROR) if finding.rule in fatal else finding
        for finding in findings
    ]
    warnings = [
        Advice(rule=finding.rule, field=finding.field, message=finding.message)
        for finding in findings
        if finding.severity is not Severity.NOTE
    ]
    return Study(planned.model_copy(update={"warnings": warnings}), _by_gravity(findings), helpful, model)


def _without_patterns(recipe: Recipe) -> Recipe:
    """The recipe with every layer in the place of those that regular expressions choose.

    Nobody knows the names of a guessed model's layers. And whoever studies other people's jobs must not search for
    their patterns: some take for ever.
    """
    modules = recipe.lora.target_modules
    if modules is not None and not all(map(is_name, modules)):
        modules = None
    return replace(
        recipe,
        osft=recipe.osft.model_copy(update={"target_patterns": []}),
        lora=recipe.lora.model_copy(update={"target_modules": modules}),
    )


def _cannot_fit(recipe: Recipe, model: ModelFacts | None, planned: Plan) -> bool:
    """Whether what is certain, and not estimated, is more than a GPU has: all that training keeps of a known model."""
    need = planned.memory_per_gpu
    if model is None or model.is_guess or need is None:
        return False
    if recipe.gpu_memory is None or not recipe.on_gpu:
        return False
    return need.parts.weights + need.parts.gradients + need.parts.optimizer > recipe.gpu_memory


def _by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    gravity = list(Severity)
    return sorted(findings, key=lambda finding: gravity.index(finding.severity))


def model_by_name(spec: FineTuneJobSpec) -> ModelFacts | None:
    """A model of the size that its name tells, if it does."""
    name = spec.model.label
    size = named_size(name)
    return None if size is None else ModelFacts(typical(size), guessed_from=name)


def plan(
    recipe: Recipe,
    model: ModelFacts | None = None,
    data: DataFacts | None = None,
    before: Precedents = NONE,
) -> Plan:
    """Settle every value that the recipe leaves open, as far as it can be, and count what follows from them."""
    return _counted(*_settled(recipe, model, data, before), model, data)


def remedies_after(
    recipe: Recipe, model: ModelFacts | None, data: DataFacts | None, before: Precedents, *, tokens: int
) -> list[Remedy]:
    """What to change when a micro-batch of `tokens` tokens did not fit and none can be smaller.

    So the estimate was too low, and so are those of the changes: all are taken for as much larger as this one must
    have been. Empty where there is no estimate.
    """
    settled, mode, _ = _settled(recipe, model, data, before)
    longest, memory_of_gpu = sample_length(settled), settled.gpu_memory if settled.on_gpu else None
    if model is None or model.is_guess or longest is None or memory_of_gpu is None:
        return []
    hyperparameters = settled.hyperparameters.model_copy(update={"max_tokens_per_gpu": longest})
    settled = replace(settled, hyperparameters=hyperparameters)
    failed = estimated(settled, model.architecture, mode, tokens=tokens, longest=min(tokens, longest))
    return remedies(
        settled,
        model.architecture,
        longest=longest,
        budget_stated=_states_budget(recipe),
        underestimated=max(1.0, memory_of_gpu / failed),
    )


def _counted(
    settled: Recipe, mode: Mode, chosen: list[Choice], model: ModelFacts | None, data: DataFacts | None
) -> Plan:
    assumptions = []
    if model is not None and model.is_guess:
        size = billions(model.architecture.parameters)
        assumptions.append(f"the model has about {size} weights, judging by its name {model.guessed_from!r}")
    length = sample_length(settled)
    if length is None and model is not None:
        length = model.assumed_length
        assumptions.append(f"samples have at most {length:,} tokens: neither maxSeqLen nor data tell")
    stated = settled.hyperparameters
    of_model: dict[str, Any] = {}
    if model is not None and length is not None:
        tokens = stated.max_tokens_per_gpu or length
        of_model = _of_model(settled, model.architecture, mode, tokens=tokens, longest=length)
    return Plan(
        learning_rate=stated.learning_rate,
        effective_batch_size=stated.effective_batch_size,
        num_epochs=stated.num_epochs,
        max_seq_len=sample_length(settled),
        max_tokens_per_gpu=stated.max_tokens_per_gpu,
        activation_checkpointing=mode.activation_checkpointing,
        accumulate_locally=mode.accumulate_locally,
        world_size=settled.world_size,
        micro_batches_per_step=_micro_batches(settled, data),
        chosen=chosen,
        assumptions=assumptions,
        **_steps(settled, data),
        **of_model,
    )


def sample_length(recipe: Recipe) -> int | None:
    """Tokens of the longest sample that is trained on; None while nobody knows."""
    stated = recipe.hyperparameters
    return stated.max_seq_len if stated.pretraining is None else stated.pretraining.block_size


def _settled(
    recipe: Recipe, model: ModelFacts | None, data: DataFacts | None, before: Precedents
) -> tuple[Recipe, Mode, list[Choice]]:
    """The recipe with what the guide chooses, how it is carried out, and the choices with their reasons.

    What depends on unknown facts stays open.
    """
    chosen: list[Choice] = []

    def fill(path: str, block: Block, **choices: guide.Chosen | None) -> Block:
        """`block` with the choices in the place of what it leaves open."""
        values: dict[str, Any] = {}
        for name, choice in choices.items():
            field = f"spec.{path}.{to_camel(name)}"
            if pinned := before.choice(field):
                choice = guide.Chosen(_number(pinned.value), pinned.reason)
            if choice is not None and getattr(block, name) is None:
                chosen.append(Choice(field=field, value=choice.value, reason=choice.reason))
                values[name] = choice.value
        return block.model_copy(update=values)

    hyperparameters = fill(
        "hyperparameters",
        recipe.hyperparameters,
        learning_rate=guide.learning_rate(recipe, model, data),
        effective_batch_size=guide.effective_batch_size(recipe, data),
        num_epochs=guide.num_epochs(recipe),
        max_seq_len=guide.max_seq_len(recipe, model, data),
    )
    osft = fill("osft", recipe.osft, unfreeze_rank_ratio=guide.unfreeze_rank_ratio(recipe, model))
    # lora_alpha takes an open r for the one that is chosen here.
    lora = fill("lora", recipe.lora, r=guide.lora_r(recipe), alpha=guide.lora_alpha(recipe))
    recipe = replace(recipe, hyperparameters=hyperparameters, osft=osft, lora=lora)
    found = before.budget if before.budget and before.budget.holds_for(recipe) else None
    mode, budget = _execution(recipe, model, found.mode if found else None)
    hyperparameters = fill("hyperparameters", hyperparameters, max_tokens_per_gpu=budget)
    planned, most = hyperparameters.max_tokens_per_gpu, found.max_tokens_per_gpu if found else None
    if found and planned and most and most < planned:
        chosen = [choice for choice in chosen if choice.field != BUDGET_FIELD]
        chosen.append(Choice(field=BUDGET_FIELD, value=most, reason=found.reason))
        hyperparameters = hyperparameters.model_copy(update={"max_tokens_per_gpu": most})
    return replace(recipe, hyperparameters=hyperparameters), mode, chosen


def _number(value: float) -> int | float:
    """A value of a Choice, as its field has it."""
    return int(value) if value.is_integer() else value


def _execution(
    recipe: Recipe, model: ModelFacts | None, settled: Mode | None
) -> tuple[Mode, guide.Chosen | None]:
    """How steps are carried out, unless that is settled, and the largest micro-batch that fits then.

    Where nobody knows what fits, the leanest way and one sample of full length.
    """
    longest, limit = sample_length(recipe), recipe.usable_gpu_memory
    if longest is None:
        return leanest(recipe), None
    one = guide.Chosen(longest, "one sample of full length, or several shorter ones")
    # A guess is good enough for advice, not for filling a GPU.
    if limit is None or model is None or model.is_guess:
        return leanest(recipe), one
    batch_size = recipe.hyperparameters.effective_batch_size
    share = MAX_TOKENS_PER_GPU if batch_size is None else -(-batch_size // recipe.world_size) * longest
    stated = recipe.hyperparameters.max_tokens_per_gpu
    mode = settled or fastest(
        recipe, model.architecture, longest=longest, share=share, stated=stated, limit=limit
    )
    fitting = largest_token_budget(recipe, model.architecture, mode, longest=longest, limit=limit)
    if fitting is None:
        return mode, one
    if share <= fitting:
        return mode, guide.Chosen(share, "a process's whole share of a step, which fits")
    return mode, guide.Chosen(
        max(longest, fitting // _ROUND * _ROUND),
        f"the most that fits into {gib(limit)}, {USABLE_GPU_MEMORY:.0%} of a GPU, with {mode}",
    )


def _steps(recipe: Recipe, data: DataFacts | None) -> dict[str, int]:
    """Optimizer steps of an epoch and of the run, as far as they are known."""
    stated = recipe.hyperparameters
    if data is None or stated.effective_batch_size is None or stated.num_epochs is None:
        return {}
    of_epoch = -(-data.samples // stated.effective_batch_size)
    total = of_epoch * stated.num_epochs
    return {"steps_per_epoch": of_epoch, "total_steps": min(total, stated.max_steps or total)}


def _micro_batches(recipe: Recipe, data: DataFacts | None) -> MicroBatches | None:
    """As measured, or bounds: no micro-batch but the last holds fewer samples than it would of full length."""
    if data is not None and data.micro_batches is not None:
        return data.micro_batches
    stated = recipe.hyperparameters
    length, budget = sample_length(recipe), stated.max_tokens_per_gpu
    if stated.effective_batch_size is None or length is None or budget is None:
        return None
    samples = stated.effective_batch_size if data is None else min(stated.effective_batch_size, data.samples)
    most = -(-samples // max(1, budget // length))
    return MicroBatches(min=1, max=max(1, -(-most // recipe.world_size)))


def _of_model(
    recipe: Recipe, architecture: Architecture, mode: Mode, *, tokens: int, longest: int
) -> dict[str, Any]:
    """What follows from the shapes of the model."""
    need = memory(recipe, architecture, mode, tokens=tokens, longest=longest)
    sizes = checkpoint_sizes(recipe, architecture)
    keep = recipe.checkpoints
    epochs = recipe.hyperparameters.num_epochs or 0
    # The result, the models of the epochs and the best ones, and the states for restarts: a new one is complete before
    # the oldest goes.
    models = 1 + epochs * keep.every_epoch + recipe.best_kept
    storage = sizes.weights * models + (1 + keep.keep_last) * sizes.resume
    storage += sizes.full_state * epochs * keep.full_state_at_epoch
    storage += sizes.decompositions + sizes.merged + sizes.download
    parts = MemoryParts(**{name: getattr(need, name) for name in MemoryParts.model_fields})
    return {
        "trainable_parameters": trainable_parameters(recipe, architecture),
        "memory_per_gpu": MemoryEstimate(estimate=need.estimate, low=need.low, high=need.high, parts=parts),
        "checkpoint_bytes": sizes.weights,
        "resume_bytes": sizes.resume,
        "full_state_bytes": sizes.full_state if keep.full_state_at_epoch else None,
        "decomposition_bytes": sizes.decompositions or None,
        "download_bytes": sizes.download or None,
        "storage_bytes": storage,
        "merge_memory": merge_memory(recipe, architecture),
    }


def _remedies(recipe: Recipe, settled: Recipe, model: ModelFacts | None, planned: Plan) -> list[Remedy]:
    limit, need = settled.usable_gpu_memory, planned.memory_per_gpu
    if model is None or limit is None or need is None or not settled.on_gpu or need.estimate <= limit:
        return []
    return remedies(
        settled,
        model.architecture,
        longest=sample_length(settled) or model.assumed_length,
        budget_stated=_states_budget(recipe),
    )


def _states_budget(recipe: Recipe) -> bool:
    return recipe.hyperparameters.max_tokens_per_gpu is not None
