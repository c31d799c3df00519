"""Where the model would have written, in text that a template made; templates here are plain functions."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from finetune_trainer.prepare.encode import MASKED, Encoded, encode
from finetune_trainer.prepare.ends import find_ends
from finetune_trainer.prepare.messages import Message
from finetune_trainer.prepare.render import Rendered, Template, UnclearError, after_words, render
from finetune_trainer.prepare.rows import Conversation

ROLES = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
Tools = list[dict[str, Any]] | None


def chat(*turns: str) -> list[Message]:
    """'u:hello' is a message of the user."""
    return [{"role": ROLES[turn[0]], "content": turn[2:]} for turn in turns]


def plain(words: Callable[[str], str] = str, header: str = "") -> Template:
    """A template that writes `<role>words<end>`, with `header` in the prompt alone."""

    def template(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        text = "".join(f"<{message['role']}>{words(message['content'])}<end>\n" for message in messages)
        return text + (f"<assistant>{header}" if prompt else "")

    return template


def spoken(messages: list[Message], template: Template, *, unmask: bool = False) -> list[str]:
    found = render(Conversation(messages, None, unmask), template, ["<end>"], unmask=unmask)
    assert found.text == template(messages, None, prompt=False)
    return [found.text[start:end] for start, end in found.spans]


def test_each_turn_of_the_assistant_is_found() -> None:
    messages = chat("s:be good", "u:hi", "a:hello", "u:bye", "a:so long")
    assert spoken(messages, plain()) == ["hello<end>", "so long<end>"]
    assert spoken(messages, plain(), unmask=True) == ["hi", "hello<end>", "bye", "so long<end>"]


def test_what_the_assistant_says_in_a_prompt_is_not_learned_unless_everything_is() -> None:
    messages = chat("u:hi", "a:hello", "u:bye", "a:so long")
    for unmask, learned in (
        (False, ["so long<end>"]),
        (True, ["hi", "hello<end>", "bye", "so long<end>"]),
    ):
        conversation = Conversation(messages, None, unmask, context=3)
        found = render(conversation, plain(), ["<end>"], unmask=unmask)
        assert [found.text[start:end] for start, end in found.spans] == learned


def test_the_assistant_may_speak_first_and_twice() -> None:
    assert spoken(chat("a:welcome", "a:well?", "u:hi", "a:so"), plain()) == [
        "welcome<end>",
        "well?<end>",
        "so<end>",
    ]


def test_words_that_occur_elsewhere_too_are_no_trap() -> None:
    messages = chat("u:yes", "a:yes", "u:<assistant>yes<end>", "a:yes")
    found = render(Conversation(messages, None, False), plain(), ["<end>"], unmask=False)
    assert [found.text[start:end] for start, end in found.spans] == ["yes<end>", "yes<end>"]
    assert found.spans[0][1] < found.text.index("<user><assistant>")
    assert found.spans[1][1] == len(found.text) - 1


def test_an_end_that_is_typed_is_not_the_end() -> None:
    assert spoken(chat("u:hi", "a:<end> and <end>"), plain()) == ["<end> and <end><end>"]


@pytest.mark.parametrize("words", [str.strip, str.upper, str.lstrip, lambda text: text.replace("l", "L")])
def test_a_template_may_change_words(words: Callable[[str], str]) -> None:
    messages = chat("u: hi ", "a:  hello \n", "u:hi", "a: \t l")
    assert spoken(messages, plain(words)) == [words("  hello \n") + "<end>", words(" \t l") + "<end>"]


def test_what_the_prompt_writes_is_not_learned_where_it_is_shown() -> None:
    """The prompt begins thoughts, which the template shows of nobody."""
    assert spoken(chat("u:hi", "a: hello", "u:hi", "a:yes"), plain(header="<think>\n")) == [
        " hello<end>",
        "yes<end>",
    ]
    assert spoken(chat("u:hi", "a:<think>\nhello"), plain(header="<think>\n")) == ["hello<end>"]


def test_words_begin_with_themselves_where_neither_the_prompt_nor_other_words_tell() -> None:
    def thinking(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        def words(message: Message) -> str:
            thought = message["role"] == "user" or "</think>" in message["content"]
            return str(message["content"]) if thought else f"<think></think>{message['content']}"

        text = "".join(f"<{message['role']}>{words(message)}<end>" for message in messages)
        return text + ("<assistant><think>\n" if prompt else "")

    messages = chat("u:hi", "a:yes", "u:hi", "a:<think>so</think> yes")
    assert spoken(messages, thinking) == ["yes<end>", "<think>so</think> yes<end>"]


def test_reasoning_is_among_the_words() -> None:
    def thinking(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        text = ""
        for message in messages:
            thought = message.get("reasoning_content")
            shown = f"<thought>{thought}</thought>" if thought else "<nothing>"
            text += f"<{message['role']}>{shown}{message['content']}<end>"
        return text + ("<assistant><think>" if prompt else "")

    messages = chat("u:hi", "a:yes")
    messages[1]["reasoning_content"] = "so"
    assert spoken(messages, thinking) == ["so</thought>yes<end>"]


def test_a_prompt_that_goes_beyond_the_words_is_not_what_the_turn_begins_with() -> None:
    assert spoken(chat("u:hi", "a:yes"), plain(header="yes<end>")) == ["yes<end>"]


def test_text_of_the_template_that_follows_the_prompt_is_the_model_s() -> None:
    def answering(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        def words(message: Message) -> str:
            return (
                f"<answer>{message['content']}</answer>"
                if message["role"] == "assistant"
                else message["content"]
            )

        text = "".join(f"<{message['role']}>{words(message)}<end>" for message in messages)
        return text + ("<assistant>" if prompt else "")

    assert spoken(chat("u:hi", "a:hello"), answering) == ["<answer>hello</answer><end>"]


def test_the_name_of_a_tool_at_its_result_is_not_the_call_s() -> None:
    """Templates look up whose result it is."""

    def naming(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        text, name = "", ""
        for message in messages:
            said = message["content"]
            for call in message.get("tool_calls", []):
                name = call["function"]["name"]
                said += f" {name}({call['function']['arguments']})"
            text += f"<{name if message['role'] == 'tool' else message['role']}>{said}<end>\n"
        return text + ("<assistant>" if prompt else "")

    call = {"function": {"name": "look", "arguments": {}}}
    messages = [*chat("u:hi", "a:", "t:a wall", "a:so"), *chat("u:hi", "a:wait", "t:a door", "a:so")]
    messages[1]["tool_calls"] = messages[5]["tool_calls"] = [call]
    assert spoken(messages, naming) == [" look({})<end>", "so<end>", "wait look({})<end>", "so<end>"]


def test_a_turn_without_its_end_ends_with_its_words() -> None:
    def last_only(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        text = "".join(f"\n<{message['role']}>{message['content']}" for message in messages)
        return text + ("\n<assistant>" if prompt else "<end>")

    assert spoken(chat("u:hi", "a:hello ", "u:hi", "a:yes"), last_only) == ["hello", "yes<end>"]


def test_a_long_conversation_is_not_rendered_for_each_of_its_turns() -> None:
    times = 0

    def counted(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        nonlocal times
        times += 1
        return plain()(messages, tools, prompt=prompt)

    assert spoken(chat(*["u:hi", "a: yes"] * 50), counted) == [" yes<end>"] * 50
    assert times <= 2 + 2 + 1  # here to compare, as it is and marked, the first prompt and the last


def test_a_prompt_that_depends_on_what_was_said_is_rendered_for_each_turn() -> None:
    def thinking(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        said = "".join(message["content"] for message in messages)
        header = "<think></think>" if "/quick" in said else ""
        text = "".join(
            f"<{m['role']}>{'<think></think>' if m['role'] == 'assistant' else ''}{m['content']}<end>"
            for m in messages
        )
        return text + (f"<assistant>{header}" if prompt else "")

    messages = chat("u:hi", "a:yes", "u:hi", "a:yes", "u:/quick", "a:yes", "u:hi", "a:yes")
    slow = "<think></think>yes<end>"
    assert spoken(messages, thinking) == [slow, slow, "yes<end>", "yes<end>"]


def test_a_template_that_looks_at_words_is_not_misled_by_marks() -> None:
    def looking(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        seen = "".join("!" for message in messages if message["content"].startswith("<b>"))
        return seen + plain()(messages, tools, prompt=prompt)

    assert spoken(chat("u:<b>hi</b>", "a:<b>hello</b> you"), looking) == ["<b>hello</b> you<end>"]


def test_an_end_that_looks_like_a_tag_and_is_typed_is_not_the_end() -> None:
    def looking(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        seen = "".join("!" for message in messages if message["content"].startswith("<b>"))
        text = "".join(f"[{message['role']}]{message['content']}</s>" for message in messages)
        return seen + text + ("[assistant]" if prompt else "")

    found = render(Conversation(chat("u:hi", "a:<b>yes</s>"), None, False), looking, ["</s>"], unmask=False)
    assert [found.text[start:end] for start, end in found.spans] == ["<b>yes</s></s>"]


def hiding(role: str) -> Template:
    def template(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        return plain()([message for message in messages if message["role"] != role], tools, prompt=prompt)

    return template


def repeating(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
    return plain()([*messages, messages[1]], tools, prompt=prompt)


def measuring(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
    return f"{len(messages[-1]['content'])}" + plain()(messages, tools, prompt=prompt)


def refusing(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
    raise UnclearError("no")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (hiding("assistant"), "does not show messages[1]"),
        (hiding("user"), "does not show messages[0]"),
        (repeating, "shows messages[1] 2 times"),
        (measuring, "treats marked words in another way"),
        (plain(lambda text: re.sub("[^a-z]", "", text)), "does not show messages[0]"),
        (refusing, "no"),
    ],
)
def test_where_it_cannot_be_told_who_speaks_the_reason_is(template: Template, said: str) -> None:
    with pytest.raises(UnclearError, match=re.escape(said)):
        render(Conversation(chat("u:hi", "a:hello", "u:bye"), None, False), template, ["<end>"], unmask=False)


def test_a_message_without_words_need_not_be_shown() -> None:
    assert spoken(chat("s: ", "u:hi", "a:hello"), hiding("system")) == ["hello<end>"]
    with pytest.raises(UnclearError, match=r"does not show messages\[0\]"):
        spoken(chat("s:be good", "u:hi", "a:hello"), hiding("system"))


def test_private_characters_may_be_used() -> None:
    one, other = chr(0x100000), chr(0xF0000)
    assert spoken(chat(f"u:{one}", f"a:{one}hello"), plain()) == [f"{one}hello<end>"]
    with pytest.raises(UnclearError, match="all planes"):
        spoken(chat(f"u:{one}", f"a:{other}"), plain())


def test_there_are_marks_for_many_messages_but_not_for_any_number() -> None:
    many = chat(*["u:hi", "a:yes"] * 16384)
    with pytest.raises(UnclearError, match="more than 32767 messages"):
        spoken(many, plain())


def test_what_follows_words_up_to_the_next() -> None:
    messages = chat("u:x", "a:y")
    assert after_words(Conversation(messages, None, False), plain()) == ["<end>\n<assistant>", "<end>\n"]
    with pytest.raises(UnclearError, match="does not show every message"):
        after_words(Conversation(messages, None, False), hiding("user"))


def specials(text: str) -> list[str]:
    return re.findall("<[a-z/]+>", text)


def ending(user: str, answer: str, last: str, header: str = "<header>") -> Template:
    def template(messages: Sequence[Message], tools: Tools, *, prompt: bool) -> str:
        text = ""
        for index, message in enumerate(messages):
            is_last = index == len(messages) - 1
            end = user if message["role"] == "user" else last if is_last else answer
            text += f"{header}{message['role']}\n{message['content']}{end}"
        return text + (f"{header}assistant\n" if prompt else "")

    return template


@pytest.mark.parametrize(
    ("template", "eos", "ends"),
    [
        (ending("<e>\n", "<e>\n", "<e>"), None, ["<e>"]),
        # Nothing ends the user's turn.
        (ending("", "<e>", "<e>"), None, ["<e>"]),
        # Another token ends the text.
        (ending("<u>", "<e>\n", "<e>\n<eos>"), "<eos>", ["<u>", "<eos>", "<e>"]),
        # The answer has a bracket of its own inside of the turn.
        (ending("<e>", "</answer><e>", "</answer><e>"), None, ["<e>"]),
        (ending("", "</answer><e>", "</answer><e>"), None, ["<e>"]),
        # The last answer ends in another way than the others; only the last ends.
        (ending("<e>", "<e>", "<return>"), "<return>", ["<e>", "<return>"]),
        (ending("", "\n", "<e>"), None, ["<e>"]),
    ],
)
def test_tokens_that_end_a_turn_are_found(template: Template, eos: str | None, ends: list[str]) -> None:
    assert find_ends(template, specials, eos) == ends


def test_an_answer_that_does_not_end_is_of_no_use() -> None:
    with pytest.raises(UnclearError, match="the model would never learn to stop"):
        find_ends(ending("<e>", "<e>", "\n"), specials, "<eos>")


TOKENS = [
    "hel",
    "lo",
    " you",
    "<end>",
    "<user>",
    "<assistant>",
    "\n",
    "hi",
    "x",
    "y",
    " hello",
    " ",
    "A:",
    "é",
    "<a> ",
]


def labelled(rendered: Rendered, *, special: Sequence[str] = ()) -> list[str]:
    """Token texts that loss is taken on, with a tokenizer whose tokens are TOKENS."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(TOKENS)}))
    pattern = "|".join(re.escape(token) for token in sorted(TOKENS, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    encoding = tokenizer.encode(rendered.text)
    assert "".join(encoding.tokens) == rendered.text
    encoded = encode(rendered, encoding, {TOKENS.index(token) for token in special})
    assert encoded.input_ids.tolist() == encoding.ids  # type: ignore[union-attr]
    return [token for token, label in zip(encoding.tokens, encoded.labels, strict=True) if label != MASKED]


def test_loss_is_taken_on_the_tokens_of_what_is_learned() -> None:
    rendered = render(
        Conversation(chat("u:hi", "a:hello you", "u:x", "a:y"), None, False), plain(), ["<end>"], unmask=False
    )
    assert labelled(rendered) == ["hel", "lo", " you", "<end>", "y", "<end>"]


def test_a_token_that_reaches_over_the_edge_is_the_model_s_but_for_special_ones() -> None:
    assert labelled(Rendered("A: hello<end>", [(3, 13)])) == [" hello", "<end>"]
    rendered = Rendered("<a>  hello<end>", [(3, 15)])
    assert labelled(rendered, special=["<a> "]) == [" hello", "<end>"]
    assert labelled(rendered) == ["<a> ", " hello", "<end>"]


def test_all_tokens_of_a_character_are_learned() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoded = encode(Rendered("é🙂é", [(1, 2)]), tokenizer.encode("é🙂é"), ())
    assert [label != MASKED for label in encoded.labels] == [False] * 2 + [True] * 4 + [False] * 2


def test_a_span_of_characters_that_the_tokenizer_drops_has_no_tokens() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    encoded = encode(Rendered("a  b", [(1, 3)]), tokenizer.encode("a  b"), ())
    assert list(encoded.labels) == [MASKED, MASKED]


def test_the_first_token_of_a_sequence_is_never_predicted() -> None:
    assert Encoded([1, 2], [1, 2]).loss_tokens == 1
    assert Encoded([1, 2, 3], [1, MASKED, 3]).loss_tokens == 1
