"""The model's own tokenizer and chat template."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError as JinjaError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.prepare.encode import Encoded, encode
from finetune_trainer.prepare.ends import find_ends, find_ends_of_call
from finetune_trainer.prepare.messages import Message
from finetune_trainer.prepare.render import Rendered, UnclearError, render
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

# The day that it is to templates that ask (Llama 3's and SmolLM3's write it into the system's prompt). The true one is
# nothing to learn, and every preparation would have other samples. This is what Llama 3's own falls back to.
DATE = date(2024, 7, 26)
_ASKS_FOR_DATE = "strftime_now"

# What templates do with data that they were not written for.
_TEMPLATE_ERRORS = (
    JinjaError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

# JSON is followed further down than templates, and what looks into the arguments of calls, can go.
_TOO_DEEP = "has tools, or arguments of tool calls, that are nested too deeply"


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
        # Without any special token, nothing matches.
        either = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
        self._special_text = re.compile(either or "(?!)")
        self._ends: list[str] = []
        self._ready: Callable[[Message], Message] = _as_it_is
        self._find_ends()

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that may end a turn."""
        found = self.tokenizer.convert_tokens_to_ids(self._ends)
        assert isinstance(found, list)
        return frozenset(found)

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

    def prompts(self, conversations: Sequence[Conversation]) -> list[list[int] | str]:
        """Token ids of what the model is given to write the last message of each, or why that cannot be shown."""
        shown = [self._prompt(each) for each in conversations]
        texts = [each for each in shown if isinstance(each, str)]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        return [next(encodings).ids if isinstance(each, str) else str(each) for each in shown]

    def _prompt(self, conversation: Conversation) -> str | UnclearError:
        asked = [self._ready(message) for message in conversation.messages[:-1]]
        try:
            return self._template(asked, conversation.tools, prompt=True)
        except UnclearError as error:
            return error

    def _render(self, conversation: Conversation, unmask: bool) -> Rendered | str:
        try:
            messages = [self._ready(message) for message in conversation.messages]
            return render(
                dataclasses.replace(conversation, messages=messages),
                self._template,
                self._ends,
                unmask=unmask,
            )
        except UnclearError as error:
            return str(error)
        except RecursionError:
            return _TOO_DEEP

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
            # The library lets no function through as a variable, but keeps templates that it has compiled.
            _compile_jinja_template(variables["chat_template"]).globals[_ASKS_FOR_DATE] = DATE.strftime
            rendered = render_jinja_template([list(messages)], **variables)
        except RecursionError:
            raise UnclearError(_TOO_DEEP) from None
        except _TEMPLATE_ERRORS as error:
            raise UnclearError(f"the chat template refuses it: {error}") from error
        return rendered[0][0]

    def _find_ends(self) -> None:
        try:
            self._ends = find_ends(self._template, self._specials, self.tokenizer.eos_token)
        except UnclearError as error:
            raise InvalidConfigurationError(f"spec.model: the chat template is of no use: {error}") from error
        for ready in (_as_it_is, _with_text_arguments):
            with contextlib.suppress(
                UnclearError
            ):  # not every template shows calls; why not, it says of those
                self._ends += find_ends_of_call(self._template, self._specials, self._ends, ready=ready)
                self._ready = ready
                break

    def _specials(self, text: str) -> list[str]:
        return [match.group() for match in self._special_text.finditer(text)]


def date_shown(files: Iterable[Path]) -> str | None:
    """What day it is to the chat templates in some of FILES; None if they do not ask."""
    # All templates are in small files; in a vocabulary, the name would mean nothing.
    asks = any(
        _ASKS_FOR_DATE.encode() in file.read_bytes()
        for file in files
        if file.suffix == ".jinja" or file.name in ("tokenizer_config.json", "chat_template.json")
    )
    return DATE.isoformat() if asks else None


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


def _as_it_is(message: Message) -> Message:
    return message


def _with_text_arguments(message: Message) -> Message:
    """As some templates (DeepSeek's) want it: they join the arguments of calls to other text, and take no objects."""
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
    except Exception as error:
        # Of a damaged tokenizer.json the library says so in plain exceptions.
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
