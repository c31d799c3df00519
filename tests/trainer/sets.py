"""Runs with any number of data sets, and what is prepared of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_api.evaluation import EvaluationSet
from finetune_api.report import Preparation
from finetune_api.runconfig import RunConfig
from finetune_api.sources import Columns, DataSource
from finetune_trainer.prepare.data_sets import PreparedData, prepare_all
from tiny import CONTEXT
from trainer.gangs import config


def write(base: Path, name: str, rows: Sequence[Any]) -> str:
    """A file of rows; strings stand for themselves."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (base / name).write_text("".join(line + "\n" for line in lines))
    return str(base / name)


def job(
    base: Path,
    model: Path,
    train: Sequence[Any],
    *,
    split: float | None = None,
    validation: Sequence[Any] | None = None,
    sets: Mapping[str, Sequence[Any]] | None = None,
    generate: Mapping[str, Any] | None = None,
    columns: Mapping[str, Columns] | None = None,
    **hyperparameters: Any,
) -> RunConfig:
    """A run with these rows."""
    run = config(base, **hyperparameters)
    files = {"train": [write(base, "train.jsonl", train)]}
    changes: dict[str, Any] = {"validation_split": split}
    if validation is not None:
        files["validation"] = [write(base, "validation.jsonl", validation)]
        volume = {"claimName": "data", "path": "validation.jsonl"}
        changes["validation"] = DataSource.model_validate({"volume": volume})
    named = []
    for name, rows in (sets or {}).items():
        files[name] = [write(base, f"{name}.jsonl", rows)]
        stated = {
            "name": name,
            "volume": {"claimName": "data", "path": f"{name}.jsonl"},
            "generate": generate,
        }
        one = EvaluationSet.model_validate(stated)
        named.append(one.model_copy(update={"columns": (columns or {}).get(name, one.columns)}))
    return run.model_copy(
        update={
            "dataset": run.dataset.model_copy(update=changes),
            "evaluation": run.evaluation.model_copy(update={"sets": named}),
            "locations": run.locations.model_copy(update={"model": str(model), "data": files}),
        }
    )


def prepare(run: RunConfig, told: list[Preparation] | None = None) -> PreparedData:
    return prepare_all(run, CONTEXT, (told if told is not None else []).append)
