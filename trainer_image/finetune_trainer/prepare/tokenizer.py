"""The model's own tokenizer and chat template."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError as JinjaError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from finetune_trainer.errors import InvalidConfigurationError
from finetune_trainer.prepare.encode import Encoded, encode
from finetune_trainer.prepare.messages import Message
from finetune_trainer.prepare.render import Rendered, UnclearError, after_words, render
from finetune_trainer.prepare.rows import Conversation

# What a tokenizer and its chat template are made of, as patterns of file names.
FILES = (
    "tokenizer*",
    "chat_template*",
    "additional_chat_templates/*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
)

# What templates do with data that they were not written for.
_TEMPLATE_ERRORS = (JinjaError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class ChatTokenizer:
    """Turns conversations into token ids and labels."""

    def __init__(self, model: Path) -> None:
        """Load the tokenizer of a model directory.

        Raises InvalidConfigurationError where it cannot do what training needs.
        """
        self.tokenizer = _load(model)
        if not self.tokenizer.chat_template:
            raise InvalidConfigurationError(
                "spec.model: the tokenizer has no chat template, so it is not known how to show conversations to "
                "the model: add chat_template.jinja to the model directory"
            )
        self._backend = _backend(self.tokenizer)
        self._variables: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
        added = self.tokenizer.added_tokens_decoder
        self._special = frozenset(self.tokenizer.all_special_ids) | frozenset(added)
        texts = {*self.tokenizer.all_special_tokens, *(token.content for token in added.values())}
        self._special_text = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))
        # Some templates (DeepSeek's) join the arguments of calls to other text, and take no objects.
        self._arguments_as_text = False
        self.ends = self._find_ends()
        """Texts of the tokens that may end a turn."""

    def encode(self, conversations: Sequence[Conversation], *, unmask: bool) -> list[Encoded | str]:
        """Token ids and labels of conversations, or why one cannot be trained on.

        Ids are those of plain rendering. `unmask` takes loss on users' and tools' words in all of them, not only in
        those that ask for it.
        """
        rendered = [self._render(each, unmask or each.unmask) for each in conversations]
        texts = [each.text for each in rendered if isinstance(each, Rendered)]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        return [
            encode(each, next(encodings), self._special) if isinstance(each, Rendered) else each
            for each in rendered
        ]

    def _render(self, conversation: Conversation, unmask: bool) -> Rendered | str:
        if self._arguments_as_text:
            messages = [_with_text_arguments(message) for message in conversation.messages]
            conversation = dataclasses.replace(conversation, messages=messages)
        try:
            return render(conversation, self._template, self.ends, unmask=unmask)
        except UnclearError as error:
            return str(error)

    def _template(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None, *, prompt: bool
    ) -> str:
        # What apply_chat_template does between its many checks; it compiles a template once.
        variables = {
            **self._variables,
            "tools": tools,
            "chat_template": self.tokenizer.get_chat_template(tools=tools),
            "add_generation_prompt": prompt,
        }
        try:
            rendered = render_jinja_template([list(messages)], **variables)
        except _TEMPLATE_ERRORS as error:
            raise UnclearError(f"the chat template refuses it: {error}") from error
        return rendered[0][0]

    def _find_ends(self) -> list[str]:
        """The tokens that end a turn are not written down anywhere, but templates write them."""
        asked, answered = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}
        try:
            after_user = self._specials(after_words([asked], self._template)[0])
            last = after_words([asked, answered], self._template)[1]
        except UnclearError as error:
            raise InvalidConfigurationError(f"spec.model: the chat template is of no use: {error}") from error
        try:
            earlier = after_words([asked, answered, asked, answered], self._template)[1]
        except UnclearError:  # one question and its answer is all that it takes
            earlier = last
        # Both users and the assistant end with the same in most templates.
        ends = after_user[:1]
        if eos := self.tokenizer.eos_token:
            ends.append(eos)
        # What follows an answer wherever it stands is its own: not the next header, and not the end of the text.
        pairs = zip(self._specials(earlier), self._specials(last), strict=False)
        ends += [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)][-1:]
        if not any(end in last for end in ends):
            ends += self._specials(last)[:1]
        if not any(end in last for end in ends):
            raise InvalidConfigurationError(
                f"spec.model: the chat template ends an answer with {last!r}, which has no special token: the model "
                "would never learn to stop"
            )
        after_call = self._after_call(asked)
        if after_call is not None and not any(end in after_call for end in ends):
            ends += self._specials(after_call)[-1:]
        return list(dict.fromkeys(ends))

    def _after_call(self, asked: Message) -> str | None:
        """What the template puts after a turn that calls a tool; None where it shows no calls."""
        function = {"name": "look", "arguments": {"where": "here"}}
        call = {"id": "call00001", "type": "function", "function": function}
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        for as_text in (False, True):
            try:
                found = after_words(
                    [asked, _with_text_arguments(calling) if as_text else calling], self._template
                )
            except UnclearError:  # not every model calls tools
                continue
            self._arguments_as_text = as_text
            return found[1]
        return None

    def _specials(self, text: str) -> list[str]:
        return [match.group() for match in self._special_text.finditer(text)]


class DocumentTokenizer:
    """Turns documents into token ids, each with the token at its end that says so."""

    def __init__(self, model: Path) -> None:
        """Load the tokenizer of a model directory.

        Raises InvalidConfigurationError where it has no end-of-sequence token.
        """
        tokenizer = _load(model)
        if tokenizer.eos_token_id is None:
            raise InvalidConfigurationError(
                "spec.model: the tokenizer has no end-of-sequence token to put between documents: set eos_token in "
                "the model's tokenizer_config.json"
            )
        self._backend = _backend(tokenizer)
        self.end_of_document = int(tokenizer.eos_token_id)
        padding = tokenizer.pad_token_id
        self.padding = self.end_of_document if padding is None else int(padding)

    def encode(self, documents: Sequence[str]) -> list[list[int]]:
        """Token ids of documents: with the special tokens that the tokenizer puts around text, and an end."""
        ids = [each.ids for each in self._backend.encode_batch_fast(documents, add_special_tokens=True)]
        return [
            each if each[-1:] == [self.end_of_document] else [*each, self.end_of_document] for each in ids
        ]


def _with_text_arguments(message: Message) -> Message:
    """A message whose tool calls have JSON text as arguments, if it has tool calls."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls}


def _load(model: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidConfigurationError(f"spec.model: cannot load the tokenizer: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidConfigurationError(
            f"spec.model: {type(tokenizer).__name__} cannot tell where its tokens come from; a model with a "
            "tokenizer.json is needed"
        )
    return tokenizer


def _backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """What the tokenizer calls itself, without what it makes of the answer. Files may ask it to cut and to pad."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend
