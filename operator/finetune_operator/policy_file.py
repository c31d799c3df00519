"""The file with the administrator's policy: read at the start, and again when it changes."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import ValidationError

from finetune_operator import validation
from finetune_operator.tenancy import Policy

logger = logging.getLogger(__name__)

# The kubelet takes up to a minute or two to bring a changed ConfigMap to the pod.
LOOK_SECONDS = 5.0


class PolicyError(Exception):
    """The file cannot be used; the message names every fault."""


class PolicyFile:
    """What the administrator has set."""

    def __init__(self, path: Path | None, *, trainer_image: str) -> None:
        """Read the file, if there is one; `trainer_image` may always be named. Raises PolicyError."""
        self._path = path
        self._trainer_image = trainer_image
        self._text = self._read()
        self._policy = self._parsed(self._text)

    def current(self) -> Policy:
        """The policy as it is now."""
        return self._policy

    async def follow(self, taken_up: Callable[[], None]) -> None:
        """Look at the file until cancelled, and call `taken_up` after each change.

        With a file that cannot be used, what was known before goes on to hold.
        """
        told = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                changed = self._look()
            except PolicyError as error:
                if told != (told := str(error)):
                    logger.error("the policy stays as it was: %s", error)
                continue
            told = ""
            if changed:
                logger.info("the policy has changed")
                taken_up()

    def _look(self) -> bool:
        text = self._read()
        if text == self._text:
            return False
        before, self._policy = self._policy, self._parsed(text)
        self._text = text
        return self._policy != before

    def _read(self) -> str:
        try:
            return "" if self._path is None else self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(f"{self._path} cannot be read: {error}") from error

    def _parsed(self, text: str) -> Policy:
        try:
            content = yaml.safe_load(text)
            stated = Policy.model_validate({} if content is None else content, by_name=False, by_alias=True)
        except yaml.YAMLError as error:
            raise PolicyError(f"{self._path} is not valid YAML: {error}") from error
        except ValidationError as error:
            faults = "; ".join(validation.problems(error, Policy))
            raise PolicyError(f"{self._path}: {faults}") from error
        return stated.model_copy(update={"trainer_images": [self._trainer_image, *stated.trainer_images]})
