"""Answers in words."""

from collections.abc import Sequence
from pathlib import Path

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.prepare.tokenizer import ChatTokenizer


class Writer:
    """What makes text of tokens, and tells where it ends."""

    def __init__(self, directory: Path) -> None:
        """Of the model in a directory. Raises InvalidConfigurationError where it has no chat template."""
        chat = ChatTokenizer(directory)
        self._tokenizer = chat.tokenizer
        self.ends = chat.ends | _stated_ends(directory)
        """Tokens that end an answer."""

    def text(self, answer: Sequence[int]) -> str:
        """An answer in words, without what ends it."""
        words = list(answer[:-1] if answer and answer[-1] in self.ends else answer)
        text = self._tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _stated_ends(directory: Path) -> frozenset[int]:
    """Tokens that end a text, by generation_config.json; not every model has one."""
    if not (directory / GENERATION_CONFIG_NAME).exists():
        return frozenset()
    try:
        ends = GenerationConfig.from_pretrained(directory, local_files_only=True).eos_token_id
    except (OSError, ValueError) as error:
        raise InvalidConfigurationError(
            f"spec.model: cannot read {GENERATION_CONFIG_NAME}: {error}"
        ) from error
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
