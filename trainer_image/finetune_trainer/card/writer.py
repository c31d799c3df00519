"""Writes what tells of a result beside it."""

import logging
from collections.abc import Callable, Collection, Mapping
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
    made = {
        names.MANIFEST_FILE: _spared("the manifest that repeats the run", partial(_manifest, story)),
        names.LOSS_PLOT_FILE: _spared("the plot of losses", partial(_plot, story)),
    }
    found = {name: content for name, content in made.items() if content is not None}
    card = _spared("the model card", partial(_card, story, beside=found))
    return found if card is None else found | {names.MODEL_CARD_FILE: card}


# What these need is imported in them: nobody is to wait for it before there is a result. And where it cannot be
# imported (matplotlib wants a place for its cache), that is one more thing which must not cost a result.
def _manifest(story: Story) -> bytes:
    from finetune_trainer.card.manifest import to_yaml

    return to_yaml(reproduce.of_run(story.config, story.plan, story.inputs)).encode()


def _plot(story: Story) -> bytes | None:
    from finetune_trainer.card.curves import draw

    return draw(story.steps, story.history, story.step)


def _card(story: Story, beside: Collection[str]) -> bytes:
    from finetune_trainer.card.text import card

    return card(story, beside).encode()


def _spared(what: str, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except Exception:  # noqa: BLE001 - a fault in what is told of a model must not cost the model
        _log.exception("%s cannot be made; the model is complete without it", what)
        return None
