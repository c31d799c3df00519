"""The header of a model card, by which the hub and other programs find and show the model."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from finetune_api import names
from finetune_api.evaluation import TRAIN, VALIDATION
from finetune_trainer.card.story import Story

_log = logging.getLogger(__name__)

# What a card says of its license; of one that is not well known, name and link.
_LICENSE = ("license", "license_name", "license_link")
_TASK = "text-generation"


def metadata(story: Story) -> ModelCardData:
    """The header of a result's card."""
    base = story.base
    # The hub knows no directories.
    on_hub = base.revision is not None
    return ModelCardData(
        base_model=base.name if on_hub else None,
        base_model_relation=("adapter" if story.kind == "adapter" else "finetune") if on_hub else None,
        datasets=_datasets(story) or None,
        library_name="peft" if story.kind == "adapter" else "transformers",
        pipeline_tag=_TASK,
        tags=["finetune-operator", story.config.method],
        model_name=story.config.name,
        eval_results=list(_results(story)) or None,
        **license_of(Path(story.config.locations.model)),
    )


def license_of(model: Path) -> dict[str, Any]:
    """What the card in a model's directory says of its license; nothing where there is none."""
    file = model / names.MODEL_CARD_FILE
    if not file.exists():
        return {}
    try:
        data = ModelCard.load(file, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # noqa: BLE001 - whatever somebody wrote there; it is not ours to mend
        _log.warning("%s cannot be read, so the card does not tell its license: %s", file, error)
        return {}
    return {key: data[key] for key in _LICENSE if key in data}


def _datasets(story: Story) -> list[str]:
    """Repositories of the data that had part in training."""
    sources = [story.config.data_sets.get(name) for name in (TRAIN, VALIDATION)]
    repos = [one.source.hugging_face.repo for one in sources if one and one.source.hugging_face]
    return list(dict.fromkeys(repos))


def _results(story: Story) -> Iterator[EvalResult]:
    if story.final is None:
        return
    for score in story.final.sets:
        data = story.config.data_sets.get(score.name)
        hub = data.source.hugging_face if data else None
        measured = {
            "loss": ("Loss per token", score.loss),
            "perplexity": ("Perplexity", score.perplexity),
            "accuracy": ("Token accuracy", score.token_accuracy),
            "exact_match": ("Answers that match", score.answered),
        }
        for kind, (name, value) in measured.items():
            if value is not None:
                yield EvalResult(
                    task_type=_TASK,
                    dataset_type=hub.repo if hub else score.name,
                    dataset_name=score.name,
                    metric_type=kind,
                    metric_name=name,
                    metric_value=value,
                )
