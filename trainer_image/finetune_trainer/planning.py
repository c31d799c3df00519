"""The run's plan, exact now that model and data are known."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.architecture import ArchitectureError, from_config
from finetune_api.facts import DataFacts, ModelFacts, Severity
from finetune_api.measured import Measured
from finetune_api.plan import plan, review
from finetune_api.recipe import Recipe
from finetune_api.runconfig import RunConfig
from finetune_api.status import MicroBatches, Plan
from finetune_trainer.batches import Schedule, pack
from finetune_trainer.errors import InvalidConfigurationError
from finetune_trainer.prepare.pipeline import Prepared


class ExactPlan(Plan):
    """A Plan in which nothing that training needs is open."""

    effective_batch_size: int
    max_seq_len: int
    max_tokens_per_gpu: int
    steps_per_epoch: int
    total_steps: int
    trainable_parameters: int


@dataclass(frozen=True)
class Facts:
    """What the plan of a run is made from."""

    recipe: Recipe
    model: ModelFacts | None
    """None for a family whose shapes are not known; that it can be trained is found out by loading it."""
    measured: Measured


def model_facts(directory: Path) -> ModelFacts | None:
    """The shapes that a model's config.json tells; None for a family that is not known."""
    try:
        return ModelFacts(from_config(json.loads((directory / "config.json").read_text())))
    except ArchitectureError:
        return None


def known_context_length(config: RunConfig, found: int | None) -> int:
    """Tokens that the model reads at a time, as found in its configuration.

    Raises InvalidConfigurationError where neither that nor the spec tells how long samples may be.
    """
    length = found or config.hyperparameters.max_seq_len
    if length is None:
        raise InvalidConfigurationError(
            "spec.hyperparameters.maxSeqLen: the model's config.json does not tell how long a text may be: state it"
        )
    return int(length)


def gather(config: RunConfig, prepared: Prepared, context_length: int, tick: Callable[[], None]) -> Facts:
    """Everything that the plan is made from. `tick` is called while micro-batches are counted.

    Raises InvalidConfigurationError when the longest sample does not fit into a micro-batch.
    """
    status = prepared.status
    assert status.lengths is not None
    recipe, model = config.recipe, model_facts(Path(config.locations.model))
    if model is not None:
        model = ModelFacts(replace(model.architecture, context_length=context_length))
    elif recipe.hyperparameters.max_seq_len is None:
        length = min(status.lengths.max, context_length)
        stated = recipe.hyperparameters.model_copy(update={"max_seq_len": length})
        recipe = replace(recipe, hyperparameters=stated)
    data = DataFacts(samples=status.samples, dropped=status.dropped, lengths=status.lengths)
    draft = plan(recipe, model, data)
    assert draft.max_tokens_per_gpu is not None
    if draft.max_tokens_per_gpu < status.longest:
        raise InvalidConfigurationError(
            f"spec.hyperparameters.maxTokensPerGpu: {draft.max_tokens_per_gpu} tokens do not hold the longest sample, "
            f"which has {status.longest}: raise it, or state a maxSeqLen of at most that to leave longer samples out"
        )
    micro_batches = _count(config, draft, prepared, tick)
    return Facts(recipe, model, Measured(dataset=status, micro_batches=micro_batches))


def make_plan(facts: Facts, trainable_parameters: int) -> ExactPlan:
    """Plan the run; `trainable_parameters` were counted on the model itself.

    Raises InvalidConfigurationError for what certainly cannot be trained.
    """
    studied = review(facts.recipe, facts.model, facts.measured.facts)
    if errors := [str(finding) for finding in studied.findings if finding.severity is Severity.ERROR]:
        raise InvalidConfigurationError("; ".join(errors))
    return ExactPlan.model_validate(studied.plan.to_wire() | {"trainableParameters": trainable_parameters})


def _count(config: RunConfig, draft: Plan, prepared: Prepared, tick: Callable[[], None]) -> MicroBatches:
    """Micro-batches of each process per step, over the first epoch."""
    assert draft.effective_batch_size is not None
    assert draft.max_tokens_per_gpu is not None
    lengths: list[int] = prepared.samples.lengths.tolist()
    schedule = Schedule(len(lengths), draft.effective_batch_size, config.hyperparameters.seed)
    counts = []
    for step in range(schedule.steps_per_epoch):
        samples = schedule.batch(step).samples
        shares = pack(samples, lengths, budget=draft.max_tokens_per_gpu, world_size=config.world_size)
        counts.append(len(shares[0]))
        tick()
    return MicroBatches(min=min(counts), mean=sum(counts) / len(counts), max=max(counts))
