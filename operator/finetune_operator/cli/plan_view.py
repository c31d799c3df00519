"""A plan as people read it, on terminals and in pipes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_api.checkpoint_sizes import checkpoint_sizes
from finetune_api.facts import DataFacts
from finetune_api.plan import Study, sample_length
from finetune_api.recipe import USABLE_GPU_MEMORY, Recipe
from finetune_api.spec import FineTuneJob
from finetune_api.status import MemoryEstimate, MicroBatches
from finetune_api.trained_weights import lora_alpha, lora_r, targets
from finetune_api.units import billions, gib
from finetune_operator.cli.diagnostics import STYLES

UNKNOWN = "not known"
INDENT = 2


@dataclass(frozen=True)
class PlanView:
    """Everything that a plan says about one job."""

    job: FineTuneJob
    study: Study
    data: DataFacts | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self._summary()
        yield _section("Settings", self._settings())
        yield _section("Course", self._course())
        need = self.study.plan.memory_per_gpu
        if need is None:
            hint = "the model's name does not tell its size; pass its config.json by --model-config"
            yield _section("Memory", Text(f"{UNKNOWN}: {hint}"))
        else:
            where = "a GPU" if self._recipe.on_gpu else "a process"
            yield _section(f"Memory of {where} at its peak", self._memory(need))
            claim = self.job.spec.storage.claim_name
            where = f"volume of claim {claim}" if claim is not None else "administrator's default volume"
            yield _section(f"On the {where}", self._storage())
        if self.study.remedies:
            changes = _grid(1)
            for remedy in self.study.remedies:
                changes.add_row("-", str(remedy))
            yield _section("It fits after any one of these changes", changes)
        if self.study.findings or self.study.plan.assumptions:
            yield _section("Remarks", self._remarks())

    @property
    def _recipe(self) -> Recipe:
        return Recipe.of_spec(self.job.spec)

    def _summary(self) -> Text:
        """The job in a sentence."""
        recipe, lora = self._recipe, self._recipe.lora
        method: str = recipe.method
        if lora.is_quantized:
            method += f" in {4 if lora.load_in_4bit else 8} bits"
        model = self.job.spec.model.label
        if (known := self.study.model) is not None:
            source = "by its name" if known.is_guess else "by its config.json"
            model += f" ({billions(known.architecture.parameters)} weights, {source})"
        if recipe.on_gpu:
            nodes = "" if recipe.nodes == 1 else f"{recipe.nodes} × "
            hardware = f"{nodes}{recipe.gpus_per_node} GPU{'s' * (recipe.gpus_per_node > 1)}"
            hardware += f" of {gib(recipe.gpu_memory)}" if recipe.gpu_memory is not None else ""
        else:
            hardware = f"{recipe.nodes} process{'es' * (recipe.nodes > 1)} without GPU"
        samples = "" if self.data is None else f", {self.data.samples:,} samples"
        return Text(f"{method} of {model} on {hardware}{samples}", overflow="fold")

    def _settings(self) -> Table:
        """What is trained with, and why where the guide chose."""
        plan, recipe = self.study.plan, self._recipe
        chosen = {choice.field.rpartition(".")[2]: choice for choice in plan.chosen}
        values: dict[str, float | None] = {
            "learningRate": plan.learning_rate,
            "effectiveBatchSize": plan.effective_batch_size,
            "numEpochs": plan.num_epochs,
        }
        if recipe.hyperparameters.pretraining is None:
            values["maxSeqLen"] = plan.max_seq_len
        else:
            values["blockSize"] = sample_length(recipe)
        values["maxTokensPerGpu"] = plan.max_tokens_per_gpu
        if recipe.method == "osft":
            values["unfreezeRankRatio"] = recipe.osft.unfreeze_rank_ratio
        if recipe.method == "lora":
            values |= {"r": recipe.lora.r, "alpha": recipe.lora.alpha}
        table = _grid(2)
        for name, value in values.items():
            choice = chosen.get(name)
            value = choice.value if choice is not None else value
            reason = "" if choice is None else f"chosen: {choice.reason}"
            table.add_row(name, UNKNOWN if value is None else number(value), Text(reason, "dim"))
        return table

    def _course(self) -> Table:
        """How the run goes."""
        plan = self.study.plan
        table = _grid(1)
        table.add_row("processes", number(plan.world_size))
        table.add_row("steps", self._steps())
        table.add_row("micro-batches", _micro_batches(plan.micro_batches_per_step))
        table.add_row("activations", "recomputed" if plan.activation_checkpointing else "kept")
        if plan.world_size > 1:
            once = "once per step" if plan.accumulate_locally else "with each micro-batch"
            table.add_row("gradients exchanged", once)
        trained, known = plan.trainable_parameters, self.study.model
        if trained is not None and known is not None:
            beside = self._recipe.method == "lora"
            share = f", {trained / known.architecture.parameters:.2%} of the model's" if beside else ""
            table.add_row("trained weights", number(trained) + share)
        if self._recipe.method == "lora":
            table.add_row("adapters", self._adapters())
            if self._recipe.is_merged:
                memory = "" if plan.merge_memory is None else f", with {gib(plan.merge_memory)} of memory"
                table.add_row("merging", f"at the end, in a pod without GPU{memory}")
        return table

    def _adapters(self) -> str:
        """What they stand beside, and how what they add is scaled."""
        recipe, lora, known = self._recipe, self._recipe.lora, self.study.model
        stated = "every linear layer of the blocks"
        if lora.target_modules is not None and "allLinear" not in lora.target_modules:
            stated = ", ".join(lora.target_modules)
        # A guessed model has the shapes of its size, not the names of its layers.
        if known is not None and not known.is_guess:
            stated += f" ({sum(count for _, count in targets(recipe, known.architecture)):,} layers)"
        r, alpha = lora_r(recipe), lora_alpha(recipe)
        scale = f"{alpha / r:.3g} (alpha / r)"
        if lora.use_rslora:
            scale = f"{alpha / math.sqrt(r):.3g} (rsLoRA: alpha / sqrt(r))"
        lengths = "; beside them, the length of each output's weights (DoRA)" if lora.use_dora else ""
        return f"beside {stated}, scaled by {scale}{lengths}"

    def _steps(self) -> str:
        plan = self.study.plan
        if plan.total_steps is None or plan.steps_per_epoch is None:
            return f"{UNKNOWN} before the samples are counted; --dataset counts them"
        return f"{plan.total_steps:,} ({plan.steps_per_epoch:,} per epoch)"

    def _memory(self, need: MemoryEstimate) -> RenderableType:
        table = Table.grid(padding=(0, INDENT, 0, 0))
        table.add_column(no_wrap=True)
        for _ in range(3):
            table.add_column(justify="right", no_wrap=True)
        table.add_row("", "low", "estimate", "high", style="dim")
        for part in type(need.parts).model_fields:
            table.add_row(part, "", size(getattr(need.parts, part)), "")
        table.add_row("total", size(need.low), size(need.estimate), size(need.high), style="bold")
        return Group(table, self._fit(need))

    def _fit(self, need: MemoryEstimate) -> Text:
        """Whether it fits, as far as one can tell."""
        recipe = self._recipe
        if not recipe.on_gpu:
            return Text("It is memory of the pod: resources.requests.memory must cover it.")
        limit = recipe.usable_gpu_memory
        if limit is None or recipe.gpu_memory is None:
            return Text("Whether it fits is not known: state resources.gpuMemory.")
        if need.estimate > limit:
            return Text(
                f"Does not fit into {USABLE_GPU_MEMORY:.0%} of a GPU's {gib(recipe.gpu_memory)}.", "bold red"
            )
        share = f"{need.estimate / recipe.gpu_memory:.0%} of a GPU's {gib(recipe.gpu_memory)}"
        if need.high > recipe.gpu_memory:
            return Text(
                f"Fits by the estimate ({share}), but not if it takes the most that is likely.", "yellow"
            )
        return Text(f"Fits: {share}.", "green")

    def _storage(self) -> Table:
        plan = self.study.plan
        what = "an adapter" if self._recipe.method == "lora" else "a model"
        table = Table.grid(padding=(0, INDENT, 0, 0))
        table.add_column(overflow="fold")
        table.add_column(justify="right", no_wrap=True)
        for label, amount in (
            (f"{what}, of each checkpoint and at the end", plan.checkpoint_bytes),
            ("a state to restart from", plan.resume_bytes),
            ("a full state, of each epoch", plan.full_state_bytes),
            ("the base model's matrices decomposed, once for all jobs", plan.decomposition_bytes),
            ("the base model as it is downloaded, once for all jobs", plan.download_bytes),
            ("the model that the adapter is merged into, in 16 bits", self._merged_bytes()),
            ("the whole run, at its most", plan.storage_bytes),
        ):
            if amount is not None:
                table.add_row(label, size(amount))
        return table

    def _merged_bytes(self) -> int | None:
        model = self.study.model
        return None if model is None else checkpoint_sizes(self._recipe, model.architecture).merged or None

    def _remarks(self) -> Table:
        """What the rules say, and what had to be assumed."""
        table = _grid(1)
        for found in self.study.findings:
            table.add_row(Text(found.severity.value, STYLES[found.severity]), f"{found} [{found.rule}]")
        for assumption in self.study.plan.assumptions:
            table.add_row("assumed", assumption)
        return table


def size(amount: int) -> str:
    """Bytes in one unit that suits: '466 MiB', '72.0 GiB', '1,381.0 GiB'."""
    return f"{amount / 2**20:,.0f} MiB" if amount < 2**30 else f"{amount / 2**30:,.1f} GiB"


def number(value: float) -> str:
    """A value as people write it: '5e-6', '0.5', '203,264'."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}".replace("e-0", "e-")


def _micro_batches(found: MicroBatches | None) -> str:
    if found is None:
        return UNKNOWN
    bounds = f"{found.min:,} to {found.max:,}" if found.min != found.max else f"{found.max:,}"
    mean = "" if found.mean is None else f", {found.mean:.1f} on average"
    return f"{bounds} per process and step{mean}"


def _grid(fixed: int) -> Table:
    """Rows of a name and what is told of it; the first `fixed` columns and a last one that wraps."""
    table = Table.grid(padding=(0, INDENT, 0, 0))
    for _ in range(fixed):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _section(title: str, body: RenderableType) -> Group:
    return Group("", Text(title, "bold"), Padding(body, (0, 0, 0, INDENT), expand=False))
