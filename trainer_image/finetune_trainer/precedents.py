"""What earlier attempts of a run have settled, on its storage volume: see finetune_api.precedents."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import ValidationError, model_validator

from finetune_api.model import ApiModel
from finetune_api.precedents import BUDGET_FIELD, Precedents, TokenBudget
from finetune_api.status import Choice
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)


class _Chosen(ApiModel):
    """What the guide chose, as it is kept: a flipped bit makes another number of a number."""

    chosen: list[Choice]
    sha256: str | None = None
    """Of what was chosen; absent in files that are older than it."""

    @classmethod
    def of(cls, chosen: list[Choice]) -> Self:
        """With its checksum."""
        return cls(chosen=chosen, sha256=_digest(chosen))

    @model_validator(mode="after")
    def _as_it_was_written(self) -> Self:
        if self.sha256 not in (None, _digest(self.chosen)):
            raise ValueError("it is not as it was written: its checksum differs")
        return self


def _digest(chosen: list[Choice]) -> str:
    # Without what is absent, so that files outlive fields that are added.
    text = Precedents(chosen=chosen).model_dump_json(by_alias=True, exclude_none=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read(storage: Storage) -> Precedents:
    """All that is settled. Raises InvalidConfigurationError where nobody can tell what the guide chose."""
    return Precedents(chosen=_chosen(storage.chosen), budget=budget(storage))


def budget(storage: Storage) -> TokenBudget | None:
    """What the run came down to by running out of memory."""
    file = storage.token_budget
    try:
        return TokenBudget.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        # It costs no more than to run out of memory once again.
        _log.warning("%s cannot be read and is left out: %s", file, error.errors()[0]["msg"])
        return None


def pin(storage: Storage, chosen: Iterable[Choice]) -> None:
    """Settle what the guide chose, unless it is: the result of a run that has begun must not change on the way.

    The token budget stays open, for it follows from the hardware and changes no result.
    """
    if not storage.chosen.exists():
        lasting = [choice for choice in chosen if choice.field != BUDGET_FIELD]
        keep(storage.chosen, _Chosen.of(lasting))


def lower(storage: Storage, budget: TokenBudget) -> None:
    """Settle for what takes less memory."""
    keep(storage.token_budget, budget)


def keep(file: Path, value: ApiModel) -> None:
    """Write a file that is there wholly or not at all."""
    commit.replace_file(file, value.model_dump_json(by_alias=True, exclude_none=True), durable=True)


def _chosen(file: Path) -> list[Choice]:
    try:
        return _Chosen.model_validate_json(file.read_bytes()).chosen
    except FileNotFoundError:
        return []
    except ValidationError as error:
        # To choose anew might train the rest of the run in another way than its beginning.
        raise InvalidConfigurationError(
            f"spec.storage: {file} tells what was chosen for this run when it began, and cannot be read "
            f"({error.errors()[0]['msg']}): restore it, or train anew with another spec.storage.path"
        ) from None
