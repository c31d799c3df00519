"""Pure: the FineTuneJob that repeats a run. Nothing that decides the result is left open in it."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from finetune_api import names
from finetune_api.evaluation import MODEL, TRAIN, VALIDATION, Evaluation
from finetune_api.inputs import Input
from finetune_api.methods import Lora, Osft
from finetune_api.plan import sample_length
from finetune_api.recipe import Recipe
from finetune_api.resources import Resources
from finetune_api.runconfig import RunConfig
from finetune_api.scalars import MAX_PATH_LENGTH
from finetune_api.sources import Dataset, DataSource, ModelSource, Storage
from finetune_api.spec import FIXED, FineTuneJob, FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus, Plan
from finetune_api.trained_weights import ALL_LINEAR, lora_alpha, lora_r, unfreeze_rank_ratio

# What the directory of the repetition is called after that of the run.
_SUFFIX = "-repeated"
_COMMENT_WIDTH = 110
_ITEM = "- "
# What a RunConfig knows of a spec: all that decides the result.
_KNOWN_TO_RUNS = (*FIXED, "checkpoints")

Source = TypeVar("Source", ModelSource, DataSource)


class UnsettledError(Exception):
    """A run has not come so far that all is known that decides its result; the message tells what is not."""


@dataclass(frozen=True)
class Repetition:
    """The FineTuneJob that repeats a run."""

    job: dict[str, Any]
    """It as JSON has it, ready to be applied."""
    notes: Sequence[str]
    """What it does not say: paragraphs, and items of lists."""

    @property
    def comment(self) -> str:
        """The notes as a comment in front of it, in YAML."""
        lines: list[str] = []
        for note in self.notes:
            is_item = note.startswith(_ITEM)
            lines += [""] if lines and not is_item else []
            lines += textwrap.wrap(
                _printable(note),
                _COMMENT_WIDTH,
                subsequent_indent=" " * len(_ITEM) * is_item,
                break_long_words=False,
                break_on_hyphens=False,
            )
        return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def of_run(config: RunConfig, plan: Plan, inputs: Sequence[Input]) -> Repetition:
    """What repeats the run of a RunConfig, whose plan and inputs these are.

    Of `resources` and the like only what decides the result is known here. Raises UnsettledError.
    """
    resources: dict[str, Any] = {"nodes": config.nodes, "gpusPerNode": config.gpus_per_node}
    if config.gpu_memory is not None:
        resources["gpuMemory"] = str(config.gpu_memory)
    spec = FineTuneJobSpec(
        method=config.method,
        model=config.model,
        dataset=config.dataset,
        hyperparameters=config.hyperparameters,
        osft=config.osft,
        lora=config.lora,
        evaluation=config.evaluation,
        checkpoints=config.checkpoints,
        storage=Storage(claim_name=config.storage.claim_name, path=config.storage.path),
        resources=Resources.model_validate(resources),
    )
    left_out = (
        "What has no bearing on the result is not in here, such as resources.requests, failurePolicy and publish: add "
        f"what it takes on your cluster, or have `finetune render --from-run {config.name} -n {config.namespace}` make "
        "this file of the job itself, as long as that is there."
    )
    made = _repeating(spec, plan, inputs, _beside(config.storage.path, config.name))
    wire = made.to_wire()
    known = {field: wire[field] for field in _KNOWN_TO_RUNS if field in wire} | {"resources": resources}
    notes = [*_told(config.namespace, config.name, config.uid), *_differs(made, plan, inputs), left_out]
    return Repetition(_manifest(config.namespace, config.name, known), notes)


def of_job(job: FineTuneJob, status: FineTuneJobStatus) -> Repetition:
    """What repeats the run of a job on a cluster. Raises UnsettledError."""
    if status.plan is None:
        raise UnsettledError("it has no plan yet (status.plan): it repeats a run that has at least begun")
    path = _beside(job.storage_path, job.metadata.name)
    made = _repeating(job.spec, status.plan, status.inputs, path)
    metadata = job.metadata
    notes = [
        *_told(metadata.namespace, metadata.name, metadata.uid),
        *_differs(made, status.plan, status.inputs),
    ]
    if made.publish is not None:
        notes.append(
            f"publish is left out: it would overwrite what the run has uploaded to {made.publish.target}. Add it with "
            "another place."
        )
    wire = {name: value for name, value in made.to_wire().items() if name not in ("publish", "suspend")}
    return Repetition(_manifest(metadata.namespace, metadata.name, wire), notes)


def _manifest(namespace: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": _without_empty(spec),
    }


def _told(namespace: str, name: str, uid: str) -> Iterator[str]:
    yield (
        f"Repeats the run of {names.KIND} {namespace}/{name} (uid {uid}). What its spec left open is stated as it was "
        "chosen, and revisions are those that were used. storage.path is new, for the two to stay apart; while the "
        "first job is still there, this one needs another metadata.name, too."
    )


def _differs(spec: FineTuneJobSpec, plan: Plan, inputs: Sequence[Input]) -> Iterator[str]:
    """What of the run the repetition cannot state."""
    yield from _unpinned(spec, inputs)
    yield from _lowered(spec, plan)


def _repeating(spec: FineTuneJobSpec, plan: Plan, inputs: Sequence[Input], path: str) -> FineTuneJobSpec:
    """The spec with all that was found out in the run, and another directory."""
    if plan.total_steps is None:
        raise UnsettledError(
            "its data are not prepared yet (status.plan.totalSteps): what the guide chooses depends on them"
        )
    revisions = {one.name: one.revision for one in inputs if one.revision is not None}
    recipe = Recipe.of_spec(spec)
    changes = {
        "model": _pinned(spec.model, MODEL, revisions),
        "dataset": _pinned_dataset(spec.dataset, revisions),
        "evaluation": _pinned_evaluation(spec.evaluation, revisions),
        "hyperparameters": spec.hyperparameters.model_copy(update=_hyperparameters(recipe, plan)),
        "osft": _osft(recipe, plan) if spec.method == "osft" else None,
        "lora": _lora(recipe, plan) if spec.method == "lora" else None,
        "storage": spec.storage.model_copy(update={"path": path}),
    }
    # Copies are not validated; whoever applies it should not be the first to find out.
    return FineTuneJobSpec.model_validate(spec.model_copy(update=changes).to_wire())


def _hyperparameters(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    stated = {
        "learning_rate": plan.learning_rate,
        "effective_batch_size": plan.effective_batch_size,
        "num_epochs": plan.num_epochs,
        "max_tokens_per_gpu": _token_budget(recipe, plan),
    }
    if recipe.hyperparameters.pretraining is None:
        stated["max_seq_len"] = plan.max_seq_len
    return stated


def _token_budget(recipe: Recipe, plan: Plan) -> int | None:
    """As planned; but no spec may state less than its samples may have."""
    length = plan.max_seq_len if sample_length(recipe) is None else sample_length(recipe)
    if plan.max_tokens_per_gpu is None or length is None:
        return plan.max_tokens_per_gpu
    return max(plan.max_tokens_per_gpu, length)


def _osft(recipe: Recipe, plan: Plan) -> Osft:
    ratio = _settled(plan, "spec.osft.unfreezeRankRatio", unfreeze_rank_ratio(recipe))
    return recipe.osft.model_copy(update={"unfreeze_rank_ratio": ratio})


def _lora(recipe: Recipe, plan: Plan) -> Lora:
    return recipe.lora.model_copy(
        update={
            "r": int(_settled(plan, "spec.lora.r", lora_r(recipe))),
            "alpha": int(_settled(plan, "spec.lora.alpha", lora_alpha(recipe))),
            "target_modules": recipe.lora.target_modules or [ALL_LINEAR],
        }
    )


def _settled(plan: Plan, field: str, otherwise: float) -> float:
    """What the guide chose for a field; otherwise what stands in the spec, or what it would choose."""
    choice = plan.choice(field)
    return otherwise if choice is None else choice.value


def _pinned_dataset(dataset: Dataset, revisions: Mapping[str, str]) -> Dataset:
    validation = dataset.validation and _pinned(dataset.validation, VALIDATION, revisions)
    return dataset.model_copy(
        update={"train": _pinned(dataset.train, TRAIN, revisions), "validation": validation}
    )


def _pinned_evaluation(evaluation: Evaluation, revisions: Mapping[str, str]) -> Evaluation:
    return evaluation.model_copy(
        update={"sets": [_pinned(one, one.name, revisions) for one in evaluation.sets]}
    )


def _pinned(source: Source, name: str, revisions: Mapping[str, str]) -> Source:
    """A source with the commit in the place of the branch or tag that it was."""
    if source.hugging_face is None:
        return source
    if name not in revisions:
        raise UnsettledError(
            f"it is not recorded which commit of {source.hugging_face} was used for {name} (status.inputs): the "
            "preparation of its data has not come so far"
        )
    hub = source.hugging_face.model_copy(update={"revision": revisions[name]})
    return source.model_copy(update={"hugging_face": hub})


def _beside(path: str, name: str) -> str:
    """Another directory beside that of the run, where what both use is found; or else one of the job's name."""
    directory = f"{PurePosixPath(path)}{_SUFFIX}"
    return directory if len(directory) <= MAX_PATH_LENGTH else f"{name}{_SUFFIX}"


def _unpinned(spec: FineTuneJobSpec, inputs: Sequence[Input]) -> Iterator[str]:
    """What may be other than it was, wherever a spec can name no more than the place; and what it was."""
    sources: dict[str, ModelSource | DataSource] = {MODEL: spec.model, **spec.data_sources}
    loose = [one for one in inputs if one.name in sources and sources[one.name].hugging_face is None]
    if loose:
        yield "What lies where the spec says may have changed since. When the run began it was:"
        yield from (f"{_ITEM}{one.name}: {one.origin}: {one.digest}" for one in loose)


def _lowered(spec: FineTuneJobSpec, plan: Plan) -> Iterator[str]:
    stated, planned = spec.hyperparameters.max_tokens_per_gpu, plan.max_tokens_per_gpu
    if stated is not None and planned is not None and stated > planned:
        yield (
            f"The run came down to maxTokensPerGpu {planned} by running out of memory; a spec cannot state less than "
            "the longest sample may have."
        )


def _without_empty(value: Any) -> Any:
    """Without mappings and lists that say nothing, for people."""
    if isinstance(value, Mapping):
        kept = {key: _without_empty(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part not in ({}, [])}
    if isinstance(value, list):
        return [_without_empty(part) for part in value]
    return value


def _printable(text: str) -> str:
    """Text in which nothing ends a line: what follows would not be a comment any more."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
