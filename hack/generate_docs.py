"""Write docs/hyperparameters.md from the models and the rule book (`make docs`)."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api import guide
from finetune_api.crd import structural_schema
from finetune_api.evaluation import EarlyStopping, Evaluation
from finetune_api.guide.choices import LEARNING_RATES, batch_sizes, rate
from finetune_api.guide.guideline import Guideline
from finetune_api.hyperparameters import Hyperparameters, Pretraining
from finetune_api.methods import Lora, Osft
from finetune_api.model import ApiModel
from finetune_api.recipe import USABLE_GPU_MEMORY
from finetune_api.resources import Resources
from finetune_api.spec import Checkpoints, FineTuneJobSpec
from schema_tables import bounds, line, table

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "hyperparameters.md"

HEAD = """\
<!-- Generated from crds/finetune_api by `make docs`. Do not edit. -->
# Hyperparameters

What decides how a model is trained, what each knob does, and what is known about setting it.

**Everything here is optional.** What you state is used exactly. What you leave out is chosen, from the method, the
model and the data, and shown with its reason in `status.plan.chosen`. So the best first manifest states none of it,
and the second changes one thing. [Examples](../examples/README.md) show values that go together.

Before any GPU is taken, `kubectl apply` and `finetune validate` print **warnings**: the job runs, and is likely not to
do what you want. `finetune plan` adds **notes**, which are good to know. What only the course of a run can show, such
as a model that underfits or overfits, is told while it trains, in `status.plan.warnings`, as an event, and in the log.
None of them rejects a job; what can never be right is refused, with the field and the remedy. Where the model's
`config.json` is not at hand, its size is judged by its name, and the message says so.

The advice is that of Training Hub's hyperparameter guide; each rule names the section that it comes from.

## Before you start

Evaluate the base model on what you care about, train, evaluate again: only the difference tells what training did.
Name data for it, and the job does so by itself ([evaluation](evaluation.md)).
Which base model you take weighs more than most knobs, and an instruction-tuned one answers to the same values
differently than one that is not. Values for eight large GPUs need not suit one small one: a smaller batch with a lower
learning rate makes its steps faster.
"""

# Blocks of the spec in the order of the page: path, model, fields (None: all).
BLOCKS: tuple[tuple[str, str, type[ApiModel], tuple[str, ...] | None], ...] = (
    ("All methods", "spec.hyperparameters", Hyperparameters, None),
    ("Training on documents", "spec.hyperparameters.pretraining", Pretraining, None),
    ("Method osft", "spec.osft", Osft, None),
    ("Method lora", "spec.lora", Lora, None),
    ("Evaluation", "spec.evaluation", Evaluation, ("baseline", "every_epoch", "every_steps", "sets")),
    ("Early stopping", "spec.evaluation.earlyStopping", EarlyStopping, None),
    ("Checkpoints", "spec.checkpoints", Checkpoints, None),
    ("Hardware", "spec.resources", Resources, ("nodes", "gpus_per_node", "gpu_memory")),
    ("Method and model", "spec", FineTuneJobSpec, ("method", "model")),
)

# What becomes of fields that neither a default nor a choice of the guide fills.
LEFT_OUT = {
    # plan.py chooses it: no other choice needs the memory model.
    "spec.hyperparameters.maxTokensPerGpu": "*chosen:* the largest that fits into "
    f"{USABLE_GPU_MEMORY:.0%} of gpuMemory; one sample of full length where that is not known.",
    "spec.hyperparameters.maxSteps": "all epochs",
    "spec.hyperparameters.pretraining": "conversations",
    "spec.hyperparameters.pretraining.blockSize": "refused",
    "spec.osft.targetPatterns": "every linear layer",
    "spec.lora.targetModules": "every linear layer of the blocks",
    "spec.resources.gpuMemory": "not known",
    "spec.checkpoints.everySteps": "the other two alone decide",
    "spec.evaluation.everySteps": "everyEpoch alone decides",
}


def rendered() -> str:
    """The text of the page."""
    blocks = (line for block in BLOCKS for line in _block(*block))
    return "\n".join([HEAD, *_summary(), *blocks, *_refused(), *_all_rules()])


def _summary() -> Iterator[str]:
    """The few numbers that most people look for."""
    yield "## In short\n"
    yield from table(
        ("Method", "Learning rate", "Epochs", "Its own knob"),
        [
            ("`sft`", _rates("sft"), "2 to 3", ""),
            ("`osft`", _rates("osft"), "2 to 3", "`unfreezeRankRatio: 0.5`"),
            ("`lora`", _rates("lora"), "2", "`r: 16`, `alpha` twice that"),
        ],
    )
    yield from table(
        ("Samples", "Samples per step (`effectiveBatchSize`)"),
        [
            ("fewer than 1,000", str(batch_sizes(1))),
            ("1,000 to 10,000", str(batch_sizes(1_000))),
            ("more than 10,000", str(batch_sizes(10_001))),
        ],
    )


def _rates(method: str) -> str:
    rates = LEARNING_RATES[method]
    if method == "lora":
        return f"{rate(rates.start)}; up to {rate(rates.high)} if it underfits"
    return f"{rate(rates.high)} to {rate(rates.low)}; lower for larger models and data"


def _block(title: str, path: str, model: type[ApiModel], fields: tuple[str, ...] | None) -> Iterator[str]:
    """What each field does and what becomes of it when it is left out, then what to know about it."""
    yield f"## {title}\n"
    yield f"`{path}`\n"
    schema = structural_schema(model)
    rows = []
    for name, field in model.model_fields.items():
        if fields is None or name in fields:
            alias = field.alias or name
            described = line(field.description or "")
            values = bounds(schema["properties"][alias])
            rows.append((f"`{alias}`", described, values, _left_out(f"{path}.{alias}", schema, alias)))
    yield from table(("Field", "What it does", "Values", "Left out"), rows)
    rules = [
        rule for rule in guide.RULES if rule.field in {f"{path}.{row[0].strip('`')}" for row in rows} | {path}
    ]
    if rules:
        yield "What the rules say:\n"
        yield from (
            f"- `{_short(rule, path)}`: {rule.statement} *({rule.severity} `{rule.id}`)*" for rule in rules
        )
        yield ""


def _short(rule: Guideline, path: str) -> str:
    return rule.field.removeprefix(f"{path}.").removeprefix("spec.")


def _left_out(field: str, schema: dict[str, Any], alias: str) -> str:
    if field in guide.CHOICES:
        summary, *_ = (inspect.getdoc(guide.CHOICES[field]) or "").split("\n\n")
        return f"*chosen:* {line(summary)}"
    if field in LEFT_OUT:
        return LEFT_OUT[field]
    if alias in schema.get("required", []):
        return "required"
    default = schema["properties"][alias]["default"]
    return f"`{json.dumps(default)}`"


def _refused() -> Iterator[str]:
    yield "## What is refused\n"
    yield "Values outside the bounds above, and:\n"
    for _, path, model, _ in BLOCKS:
        yield from (f"- `{path}`: {rule.message}" for rule in model.rules)
    yield ""


def _all_rules() -> Iterator[str]:
    yield "## All rules\n"
    yield from table(
        ("Rule", "Severity", "Field", "Section of the guide"),
        [(f"`{rule.id}`", rule.severity, f"`{rule.field}`", rule.section) for rule in guide.RULES],
    )


if __name__ == "__main__":
    TARGET.write_text(rendered())
    print(TARGET.relative_to(ROOT))
