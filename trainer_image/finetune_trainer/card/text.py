"""The text of a model card."""

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2

from finetune_api import names
from finetune_api.evaluation import MODEL, TRAIN, VALIDATION
from finetune_api.inputs import Input
from finetune_api.scores import SetScore, summary
from finetune_api.units import gib
from finetune_trainer.card.markdown import bullets, code, paragraphs, table
from finetune_trainer.card.metadata import metadata
from finetune_trainer.card.story import Story
from finetune_trainer.sources.record import origins

_TEMPLATE = jinja2.Template(
    Path(__file__).with_name("template.md").read_text(), undefined=jinja2.StrictUndefined
)

_METHODS = {
    "sft": "Supervised fine-tuning of all weights.",
    "osft": "Orthogonal subspace fine-tuning (OSFT): the strongest directions of each weight matrix are frozen, "
    "the others trained.",
    "lora": "Low-rank adapters (LoRA) beside a frozen model{bits}.",
}
_MODEL_CODE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this directory
model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(path)"""
_ADAPTER_CODE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this directory
base = AutoModelForCausalLM.from_pretrained({base}, dtype="auto")
model = PeftModel.from_pretrained(base, path)
tokenizer = AutoTokenizer.from_pretrained(path)"""
_CHAT_CODE = """
messages = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
_DOCUMENT_CODE = """
inputs = tokenizer("...", return_tensors="pt")
text = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(text[0], skip_special_tokens=True))"""


def card(story: Story, beside: Collection[str]) -> str:
    """The whole card; `beside` are the names of files that it may speak of."""
    config = story.config
    body = _TEMPLATE.render(
        name=config.name,
        summary=_summary(story),
        code=_code(story),
        inputs=_inputs(story),
        data=_data(story),
        evaluation=_evaluation(story, has_plot=names.LOSS_PLOT_FILE in beside),
        method=_METHODS[config.method].format(bits=_bits(story)),
        hyperparameters=_hyperparameters(story),
        plan=_plan(story),
        warnings=bullets(f"{code(each.field)}: {each.message}" for each in story.plan.warnings),
        environment=_environment(story),
        repeat=_repeat(story, has_manifest=names.MANIFEST_FILE in beside),
    )
    return f"---\n{metadata(story).to_yaml()}\n---\n\n{body}\n"


def _summary(story: Story) -> str:
    what = {
        "model": "A model: {} fine-tuned",
        "adapter": "An adapter for {}, trained",
        "merged": "A model: {} with an adapter merged into it, that was trained",
    }[story.kind]
    what = what.format(code(story.config.model.label))
    samples = "blocks of documents" if story.config.hyperparameters.pretraining else "samples"
    said = f"{what} on {story.dataset.samples:,} {samples}."
    changed = summary(story.baseline, story.final)
    return f"{said} {changed[0].upper()}{changed[1:]}." if changed else said


def _code(story: Story) -> str:
    if story.kind == "adapter":
        base = story.base
        revision = f", revision={json.dumps(base.revision)}" if base.revision else ""
        # A directory of a pod is of no use to anybody.
        name = json.dumps(base.name) if base.revision else '"path/to/the/base/model"'
        loading = _ADAPTER_CODE.format(base=f"{name}{revision}")
    else:
        loading = _MODEL_CODE
    return loading + "\n" + (_DOCUMENT_CODE if story.config.hyperparameters.pretraining else _CHAT_CODE)


def _inputs(story: Story) -> str:
    titles = {MODEL: "base model", TRAIN: "training data", VALIDATION: "validation data"}
    found = {one.name: one for one in story.inputs}
    rows = []
    for name, origin in origins(story.config).items():
        # Its record may have been lost since; where it came from is known still.
        one = found.get(name) or Input(name=name, origin=origin, digest="", bytes=0)
        told = (code(part) if part else "" for part in (one.revision, one.digest))
        rows.append((titles.get(name, f"{code(name)} data"), origin, *told))
    return table(("", "from", "commit", "digest"), rows)


def _data(story: Story) -> str:
    found = story.dataset
    told = _notes(
        f"left out: {found.left_out}" if found.left_out else "",
        f"equal to an earlier one: {found.duplicates:,}" if found.duplicates else "",
    )
    rows = [("trained on", f"{found.samples:,}", f"{found.loss_tokens:,}", told)]
    for one in story.report.evaluation_data:
        left_out = {"too long": one.dropped, "invalid": one.invalid}
        said = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
        told = _notes(
            f"left out: {said}" if said else "",
            "" if one.digest else "held back from the training data",
            f"trained on, too: {one.in_training:,}" if one.in_training else "",
        )
        rows.append((code(one.name), f"{one.samples:,}", f"{one.loss_tokens:,}", told))
    return table(("data", "samples", "tokens that loss is taken on", ""), rows)


def _notes(*told: str) -> str:
    return "; ".join(each for each in told if each)


def _evaluation(story: Story, *, has_plot: bool) -> str:
    plot = (
        f"![Losses of training and evaluations by optimizer step]({names.LOSS_PLOT_FILE})" if has_plot else ""
    )
    if story.final is None:
        return paragraphs(("There were no data to evaluate on.", plot))
    before = {score.name: score for score in story.baseline.sets} if story.baseline else {}
    answered = any(score.answered is not None for score in story.final.sets)
    head = ["data", "loss before", "loss after", "change", "perplexity", "token accuracy"]
    rows = [_scores(score, before.get(score.name), answered=answered) for score in story.final.sets]
    stopped = story.report.evaluation.stopped_early if story.report.evaluation else None
    return paragraphs(
        (
            table([*head, "answers that match"] if answered else head, rows),
            "Loss is the mean per token; before is the base model, after this one.",
            f"Training ended early: {stopped}." if stopped else "",
            f"The weights are those after step {story.step}, which have the lowest validation loss."
            if story.step < max(one.step for one in story.history)
            else "",
            plot,
        )
    )


def _scores(score: SetScore, before: SetScore | None, *, answered: bool) -> list[str]:
    old = before or SetScore(name=score.name, tokens=0)
    cells = [
        code(score.name),
        _number(old.loss),
        _number(score.loss),
        f"{score.change:+.4g}" if score.change is not None else "",
        _change(old.perplexity, score.perplexity, "{:.4g}"),
        _change(old.token_accuracy, score.token_accuracy, "{:.1%}"),
    ]
    return [*cells, _change(old.answered, score.answered, "{:.1%}")] if answered else cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _change(before: float | None, after: float | None, form: str) -> str:
    return " → ".join(form.format(value) for value in (before, after) if value is not None)


def _bits(story: Story) -> str:
    lora = story.config.lora
    if lora is None or not lora.is_quantized:
        return ""
    return f" held in {4 if lora.load_in_4bit else 8} bits per weight"


def _hyperparameters(story: Story) -> str:
    """Every value, and of those that the guide chose why."""
    config, plan = story.config, story.plan
    blocks: dict[str, Any] = {"hyperparameters": config.hyperparameters}
    if own := getattr(config, config.method, None):
        blocks[config.method] = own
    # What was left open is there too, for all to stand in the order of the spec.
    stated = {
        field: value
        for name, block in blocks.items()
        for field, value in _flat(block.model_dump(mode="json", by_alias=True), f"spec.{name}")
    }
    values = stated | {choice.field: choice.value for choice in plan.chosen}
    reasons = {choice.field: choice.reason for choice in plan.chosen}
    rows = (
        (code(field.removeprefix("spec.")), _value(value), reasons.get(field, ""))
        for field, value in values.items()
        if value is not None
    )
    return table(("", "value", "chosen, for the spec leaves it open, because"), rows)


def _flat(block: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{name}")
        elif value != []:
            yield f"{prefix}.{name}", value


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return (
        str(value)
        if isinstance(value, str | int) and not isinstance(value, bool)
        else code(json.dumps(value))
    )


def _plan(story: Story) -> str:
    plan, last = story.plan, story.steps[-1] if story.steps else None
    total = plan.total_steps or 0
    rows = [
        ("processes", f"{plan.world_size:,}"),
        ("optimizer steps", f"{last.step:,} of {total:,}" if last and last.step < total else f"{total:,}"),
        ("steps per epoch", f"{plan.steps_per_epoch:,}" if plan.steps_per_epoch else ""),
        ("trained weights", f"{plan.trainable_parameters:,}" if plan.trainable_parameters else ""),
        ("activations are recomputed", "yes" if plan.activation_checkpointing else "no"),
    ]
    if plan.memory_per_gpu:
        rows.append(("memory of a process, planned", gib(plan.memory_per_gpu.estimate)))
    if last and last.peak_memory:
        rows.append(("memory of a process, measured", gib(last.peak_memory)))
    if last:
        rows.append(("time from the first step to the last", _duration(last.time - story.steps[0].time)))
    return table(("plan", ""), [row for row in rows if row[1]])


def _duration(time: timedelta) -> str:
    return str(timedelta(seconds=round(time.total_seconds())))


def _environment(story: Story) -> str:
    found = story.environment
    if found is None:
        return "This is not known any more."
    devices = ", ".join(f"{count} × {name}" for name, count in found.devices.items())
    on_cpu = (
        "" if story.config.use_gpu else f", {found.threads} thread{'s' * (found.threads != 1)} per process"
    )
    rows = [("hardware", devices + on_cpu), *found.software.items()]
    attempts = story.steps[-1].attempt if story.steps else 1
    later = f"It took {attempts} attempts; this is of the last one." if attempts > 1 else ""
    return paragraphs((table(("", ""), rows), later))


def _repeat(story: Story, *, has_manifest: bool) -> str:
    config = story.config
    made = f"{names.KIND} {code(f'{config.namespace}/{config.name}')} with uid {code(config.uid)} made it."
    if not has_manifest:
        return made
    return (
        f"{made} {code(names.MANIFEST_FILE)} beside this card is a {names.KIND} that makes it again: it states what "
        "was chosen, and the commits of what was downloaded. With the same data, software and kind of CPU, it makes "
        "the same weights bit for bit; on GPUs they agree up to rounding."
    )
