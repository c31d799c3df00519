"""The model's own tokenizer and chat template."""

from collections.abc import Sequence
from pathlib import Path

from jinja2.exceptions import TemplateError as JinjaError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune_trainer.errors import InvalidConfigurationError
from finetune_trainer.prepare.encode import Encoded, encode
from finetune_trainer.prepare.render import Message, Rendered, TemplateError, after_answer

# What a tokenizer and its chat template are made of, as patterns of file names.
FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
)


class ChatTokenizer:
    """Turns conversations into token ids and labels."""

    def __init__(self, model: Path) -> None:
        """Load the tokenizer of a model directory.

        Raises InvalidConfigurationError where it cannot do what training needs.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise InvalidConfigurationError(f"spec.model: cannot load the tokenizer: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise InvalidConfigurationError(
                f"spec.model: {type(tokenizer).__name__} cannot tell where its tokens come from; a model with a "
                "tokenizer.json is needed"
            )
        if not tokenizer.chat_template:
            raise InvalidConfigurationError(
                "spec.model: the tokenizer has no chat template, so it is not known how to show conversations to "
                "the model: add chat_template.jinja to the model directory"
            )
        self.tokenizer = tokenizer
        self.end_of_turn = self._find_end_of_turn()

    def template(self, messages: Sequence[Message]) -> str:
        """A conversation as text. Raises jinja2's TemplateError where the template refuses it."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False)
        assert isinstance(text, str)
        return text

    def encode(self, conversations: Sequence[Rendered]) -> list[Encoded]:
        """Token ids and labels of rendered conversations."""
        texts = [rendered.text for rendered in conversations]
        tokens = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            encode(rendered, ids, offsets, self.end_of_turn)
            for rendered, ids, offsets in zip(
                conversations, tokens["input_ids"], tokens["offset_mapping"], strict=True
            )
        ]

    def _find_end_of_turn(self) -> int:
        try:
            tail = after_answer(self.template)
        except (JinjaError, TemplateError) as error:
            raise InvalidConfigurationError(f"spec.model: the chat template is of no use: {error}") from error
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        found = next((token for token in ids if token in special), None)
        if found is None:
            raise InvalidConfigurationError(
                f"spec.model: the chat template ends an answer with {tail!r}, which has no special token: the model "
                "would never learn to stop"
            )
        return int(found)
