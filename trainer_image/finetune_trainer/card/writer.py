"""Writes what tells of a result beside it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from finetune_api import names, reproduce
from finetune_api.runconfig import RunConfig
from finetune_trainer.card.environment import Environment
from finetune_trainer.card.story import Kind, Story
from finetune_trainer.reports import history
from finetune_trainer.reports.metrics_file import records
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources.record import Record
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """Writes about the results of a run. For rank 0, and for the process that merges."""

    config: RunConfig
    storage: Storage
    reporter: Reporter

    def write(self, into: Path, kind: Kind, step: int) -> None:
        """Write card, plot and manifest to where a result lies, which has the weights after so many steps.

        A trained model is worth more than what is told of it: whatever goes wrong in making one of these is logged,
        and it is left out. Raises OSError for what the volume does not take: it would not take the model either.
        """
        story = _spared("what the model card is to tell", partial(self._story, kind, step))
        for name, content in (_contents(story) if story else {}).items():
            (into / name).write_bytes(content)

    def _story(self, kind: Kind, step: int) -> Story:
        report = self.reporter.report
        return Story(
            config=self.config,
            kind=kind,
            step=step,
            report=report,
            inputs=Record.of(self.config).told(self.config),
            steps=list(records(self.storage)),
            history=history.evaluations(self.storage),
            environment=Environment.read(self.storage),
        )


def _contents(story: Story) -> Mapping[str, bytes]:
    """All that there is to write, by the names of files."""
    # They take libraries that nobody is to wait for before there is a result.
    from finetune_trainer.card import curves, text
    from finetune_trainer.card.manifest import to_yaml

    def manifest() -> bytes:
        return to_yaml(reproduce.of_run(story.config, story.plan, story.inputs)).encode()

    made = {
        names.MANIFEST_FILE: _spared("the manifest that repeats the run", manifest),
        text.LOSS_PLOT: _spared(
            "the plot of losses", partial(curves.draw, story.steps, story.history, story.step)
        ),
    }
    found = {name: content for name, content in made.items() if content is not None}
    card = _spared("the model card", lambda: text.card(story, found).encode())
    return found if card is None else found | {names.MODEL_CARD_FILE: card}


def _spared(what: str, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except Exception:  # noqa: BLE001 - a fault in what is told of a model must not cost the model
        _log.exception("%s cannot be made; the model is complete without it", what)
        return None
