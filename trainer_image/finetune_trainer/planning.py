"""The run's plan, exact now that model and data are known."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.architecture import ArchitectureError, from_config
from finetune_api.facts import DataFacts, ModelFacts, Severity
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.measured import Measured
from finetune_api.memory import Mode, leanest
from finetune_api.model import ApiModel
from finetune_api.plan import plan, remedies_after, review
from finetune_api.precedents import HALVED, NONE, Precedents, TokenBudget
from finetune_api.recipe import Recipe
from finetune_api.runconfig import RunConfig
from finetune_api.status import MicroBatches, Plan
from finetune_trainer import precedents
from finetune_trainer.batches import Schedule
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.packing import count
from finetune_trainer.prepare.arrow import Prepared
from finetune_trainer.storage import Storage


class ExactPlan(Plan):
    """A Plan in which nothing that training needs is open."""

    effective_batch_size: int
    max_seq_len: int
    max_tokens_per_gpu: int
    activation_checkpointing: bool
    accumulate_locally: bool
    steps_per_epoch: int
    total_steps: int

    @property
    def mode(self) -> Mode:
        """How steps are carried out."""
        return Mode(self.activation_checkpointing, self.accumulate_locally)


@dataclass(frozen=True)
class Facts:
    """What the plan of a run is made from."""

    recipe: Recipe
    model: ModelFacts | None
    """None for a family whose shapes are not known; that it can be trained is found out by loading it."""
    measured: Measured
    before: Precedents = NONE
    """What the run has settled already."""


def model_facts(directory: Path) -> ModelFacts | None:
    """The shapes that a model's config.json tells; None for a family that is not known.

    Raises InvalidConfigurationError where it is no JSON.
    """
    try:
        return ModelFacts(from_config(_model_config(directory)))
    except ArchitectureError:
        return None


def context_length(directory: Path, stated: Hyperparameters) -> int:
    """Tokens that the model in a directory reads at a time.

    Raises InvalidConfigurationError where neither its configuration nor the spec tells how long samples may be.
    """
    known = model_facts(directory)
    length = (
        known.context_length if known else _usual_context_length(_model_config(directory))
    ) or stated.max_seq_len
    if length is None and stated.pretraining is not None:
        length = stated.pretraining.block_size
    if length is None:
        raise InvalidConfigurationError(
            "spec.hyperparameters.maxSeqLen: the model's config.json does not tell how long a text may be: state it"
        )
    return length


def _model_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except ValueError as error:
        raise InvalidConfigurationError(f"spec.model: config.json is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidConfigurationError("spec.model: config.json must hold an object")
    return config


def _usual_context_length(config: dict[str, Any]) -> int | None:
    """What most families call it, also those that keep their text model's configuration apart."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        if isinstance(found := part.get("max_position_embeddings"), int) and found > 0:
            return found
    return None


def gather(
    config: RunConfig,
    prepared: Prepared,
    context_length: int,
    tick: Callable[[], None],
    *,
    storage: Storage | None = None,
) -> Facts:
    """Everything that the plan is made from. `tick` is called while micro-batches are counted.

    What is counted is kept in the run's `storage`, and not counted again where it lies there already: GPUs do not
    wait for what the preparation has counted. What earlier attempts have settled is read from there. Raises
    InvalidConfigurationError when the longest sample does not fit into a micro-batch.
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
    before = precedents.read(storage) if storage else NONE
    draft = plan(recipe, model, data, before)
    assert draft.max_tokens_per_gpu is not None
    if draft.max_tokens_per_gpu < status.longest:
        raise InvalidConfigurationError(
            f"spec.hyperparameters.maxTokensPerGpu: {draft.max_tokens_per_gpu} tokens do not hold the longest sample, "
            f"which has {status.longest}: raise it, or state a maxSeqLen of at most that to leave longer samples out"
        )
    micro_batches = _micro_batches(config, draft, prepared, tick, storage.plan if storage else None)
    return Facts(recipe, model, Measured(dataset=status, micro_batches=micro_batches), before)


def make_plan(facts: Facts, trainable_parameters: int | None = None) -> ExactPlan:
    """Plan the run; `trainable_parameters` as counted on the model itself, by whoever has it.

    Raises InvalidConfigurationError for what certainly cannot be trained.
    """
    studied = review(facts.recipe, facts.model, facts.measured.facts, facts.before)
    if errors := [str(finding) for finding in studied.findings if finding.severity is Severity.ERROR]:
        raise InvalidConfigurationError("; ".join(errors))
    counted = {} if trainable_parameters is None else {"trainableParameters": trainable_parameters}
    return ExactPlan.model_validate(studied.plan.to_wire() | counted)


@dataclass(frozen=True)
class Planner:
    """Plans one attempt at a run, and again when it runs out of memory. What is settled, later attempts keep to."""

    config: RunConfig
    prepared: Prepared
    context_length: int
    """Of the model, in tokens."""
    storage: Storage
    tick: Callable[[], None]
    """Called while micro-batches are counted."""
    trainable_parameters: int
    """As counted on the model itself."""

    def plan(self) -> ExactPlan:
        """The plan, with what the run has settled already; from the first one on the guide's choices are.

        For one process of the gang. Raises InvalidConfigurationError for what certainly cannot be trained.
        """
        facts = self._facts()
        made = make_plan(facts, self.trainable_parameters)
        precedents.pin(self.storage, made.chosen)
        return made

    def smaller(
        self, failed: ExactPlan, step: int, sample_lengths: Sequence[int], said: str
    ) -> TokenBudget | None:
        """What may do instead of a plan by which a micro-batch did not fit in `step`; None where nothing would.

        Half of the token budget; where that would not make the micro-batch any smaller, the way to carry out steps
        that takes the least memory.
        """
        recipe = self.config.recipe
        mode = failed.mode
        tokens: int | None = max(self.prepared.status.longest, failed.max_tokens_per_gpu // 2)
        what = HALVED
        if len(sample_lengths) <= 1 or tokens == failed.max_tokens_per_gpu:
            if mode == leanest(recipe):
                return None
            mode, tokens = leanest(recipe), None
            what = f"{mode}, after running out of memory"
        return TokenBudget(
            max_tokens_per_gpu=tokens,
            activation_checkpointing=mode.activation_checkpointing,
            accumulate_locally=mode.accumulate_locally,
            reason=f"{what} at step {step}: {sum(sample_lengths):,} tokens did not fit ({said:.200})",
            world_size=recipe.world_size,
            on_gpu=recipe.on_gpu,
            gpu_memory=recipe.gpu_memory,
        )

    def settle(self, budget: TokenBudget) -> None:
        """Have this and all later attempts plan with that."""
        precedents.lower(self.storage, budget)

    def remedies(self, tokens: int) -> list[str]:
        """What to change where a micro-batch of so many tokens does not fit, and none can be smaller."""
        facts = self._facts()
        found = remedies_after(facts.recipe, facts.model, facts.measured.facts, facts.before, tokens=tokens)
        return [str(remedy) for remedy in found]

    def _facts(self) -> Facts:
        return gather(self.config, self.prepared, self.context_length, self.tick, storage=self.storage)


class _Packing(ApiModel):
    """All that decides how samples are packed."""

    digest: str
    """Of the prepared data."""
    batch_size: int
    budget: int
    world_size: int
    seed: int


class _Counted(ApiModel):
    """What is kept of a count."""

    packing: _Packing
    micro_batches: MicroBatches


def _micro_batches(
    config: RunConfig, draft: Plan, prepared: Prepared, tick: Callable[[], None], keep: Path | None
) -> MicroBatches:
    """Micro-batches of each process per step, over the first epoch."""
    assert draft.effective_batch_size is not None
    assert draft.max_tokens_per_gpu is not None
    packing = _Packing(
        digest=prepared.status.digest,
        batch_size=draft.effective_batch_size,
        budget=draft.max_tokens_per_gpu,
        world_size=config.world_size,
        seed=config.hyperparameters.seed,
    )
    if keep is not None and (kept := _kept(keep)) is not None and kept.packing == packing:
        return kept.micro_batches
    lengths = prepared.samples.lengths
    schedule = Schedule(len(lengths), packing.batch_size, packing.seed)
    found = count(lengths, schedule, packing.budget, packing.world_size, tick)
    if keep is not None:
        precedents.keep(keep, _Counted(packing=packing, micro_batches=found))
    return found


def _kept(file: Path) -> _Counted | None:
    """What an earlier count left; None where there is none that can be used."""
    try:
        return _Counted.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
