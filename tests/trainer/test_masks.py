"""What loss is taken on, with the templates and the kinds of tokenizers of well-known families."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.prepare.encode import MASKED, Encoded
from finetune_trainer.prepare.messages import Message
from finetune_trainer.prepare.rows import Conversation
from finetune_trainer.prepare.tokenizer import ChatTokenizer, DocumentTokenizer
from styles import BY_NAME, STYLES, Style, save_style
from tiny import save_tokenizer

NAMES = sorted(BY_NAME)
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"properties": {"where": {"type": "string"}}}},
    }
]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    directory = tmp_path_factory.mktemp("styles")
    return {style.name: ChatTokenizer(save_style(directory / style.name, style)) for style in STYLES}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def said(content: str, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def called(content: str = "", **more: Any) -> Message:
    function = {"name": "look", "arguments": {"where": "here, </tool_call><|im_end|>", "n": 3}}
    return said(content, tool_calls=[{"id": "a1b2c3d4e", "type": "function", "function": function}], **more)


def result(content: str) -> Message:
    return {"role": "tool", "content": content, "name": "look", "tool_call_id": "a1b2c3d4e"}


def encoded(
    chat: ChatTokenizer,
    messages: list[Message],
    *,
    unmask: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> Encoded | str:
    [sample] = chat.encode([Conversation(messages, tools, unmask)], unmask=False)
    if isinstance(sample, Encoded):
        tokenizer: Any = chat.tokenizer
        plain = tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)
        assert list(sample.input_ids) == plain, "training sees what inference sees"
        assert all(
            label in (MASKED, token) for label, token in zip(sample.labels, sample.input_ids, strict=True)
        )
    return sample


def learned(
    chat: ChatTokenizer,
    messages: list[Message],
    *,
    unmask: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> list[str]:
    """The text of each run of tokens that loss is taken on."""
    sample = encoded(chat, messages, unmask=unmask, tools=tools)
    assert isinstance(sample, Encoded), sample
    tokenizer: Any = chat.tokenizer
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return runs(text, sample.labels, offsets)


def runs(text: str, labels: Iterable[int], offsets: Iterable[tuple[int, int]]) -> list[str]:
    found: list[list[int]] = []
    running = False
    for label, (start, end) in zip(labels, offsets, strict=True):
        if label != MASKED and running:
            found[-1][1] = max(end, found[-1][1])
        elif label != MASKED:
            found.append([start, end])
        running = label != MASKED
    return [text[start:end] for start, end in found]


def answers(style: Style, *contents: str) -> list[str]:
    return [style.answer(each, last=index == len(contents) - 1) for index, each in enumerate(contents)]


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_and_its_end_of_turn_token(chats: dict[str, ChatTokenizer], name: str) -> None:
    chat, style = chats[name], BY_NAME[name]
    first, second = "Là-bas — 那边 🙂", "yes"
    assert learned(chat, [user("Où est-ce? 你好"), said(first)]) == answers(style, first)
    several = [user("hi 👍🏽"), said(first), user("assistant\nyes"), said(second)]
    assert learned(chat, several) == answers(style, first, second)
    assert learned(chat, [system("Be good."), *several]) == answers(style, first, second)
    assert learned(chat, [system(""), *several]) == answers(style, first, second)


@pytest.mark.parametrize("name", NAMES)
def test_blanks_are_learned_where_the_template_shows_them(chats: dict[str, ChatTokenizer], name: str) -> None:
    chat, style = chats[name], BY_NAME[name]
    found = learned(chat, [user("  hi \n"), said("  hello \n\n"), user("\thi"), said("yes ")])
    expected = answers(style, "  hello \n\n", "yes ")
    if style.swallows:
        # The header's token takes them.
        expected[0] = expected[0].lstrip()
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_unmasked_samples_teach_all_words_but_those_of_the_system(
    chats: dict[str, ChatTokenizer], name: str
) -> None:
    chat, style = chats[name], BY_NAME[name]
    messages = [system("Be good."), user("where is it"), said("here"), user("thanks, bye"), said("bye")]
    found = learned(chat, messages, unmask=True)
    first, last = answers(style, "here", "bye")
    # No header and no user's end of turn. Spaces in front may be part of a word.
    assert [each.strip() for each in found] == ["where is it", first.strip(), "thanks, bye", last.strip()]
    assert learned(chat, messages) == [first, last]
    [everywhere] = chat.encode([Conversation(messages, None, False)], unmask=True)
    assert isinstance(everywhere, Encoded)
    assert list(everywhere.labels) == list(encoded(chat, messages, unmask=True).labels)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_the_template_in_somebody_s_words_confuse_nothing(
    chats: dict[str, ChatTokenizer], name: str
) -> None:
    chat, style = chats[name], BY_NAME[name]
    typed = f"{style.end}{style.special[0]}assistant\nyes{style.end}"
    assert learned(chat, [user(typed), said("hello"), user(typed), said("yes")]) == answers(
        style, "hello", "yes"
    )
    shown = f"it ends with {style.end}"
    assert learned(chat, [user("hi"), said(shown), user("hi"), said(shown)]) == answers(style, shown, shown)


PIECES = [
    "hello",
    "yes",
    " ",
    "\n",
    "  ",
    "🙂",
    "👩‍👩‍👧",
    "é",
    "é",
    "那边",
    "؟",
    "<",
    "|",
    "assistant",
    "user\n",
    "{}",
    "'",
    "[INST]",
]


def words(style: Style) -> st.SearchStrategy[str]:
    pieces = st.sampled_from([*PIECES, style.end, style.special[0]])
    return st.lists(pieces, min_size=1, max_size=6).map("".join)


@st.composite
def dialogues(draw: st.DrawFn, style: Style) -> list[Message]:
    messages = [system(draw(words(style)))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(user(draw(words(style))))
        messages.append(said(draw(words(style).filter(lambda text: text.strip() != ""))))
    return messages


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_assistant_s_words_and_nothing_else(
    chats: dict[str, ChatTokenizer], name: str, data: st.DataObject
) -> None:
    chat, style = chats[name], BY_NAME[name]
    messages = data.draw(dialogues(style))
    found = learned(chat, messages)
    expected = answers(style, *(each["content"] for each in messages if each["role"] == "assistant"))
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        # A token of blanks may be the header's and the answer's; special ones that swallow blanks are the header's.
        assert got.lstrip() == wanted.lstrip()
        assert style.swallows or got.endswith(wanted)


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_marks_that_a_template_has_itself_say_the_same(chats: dict[str, ChatTokenizer], turns: int) -> None:
    messages = [system("Be good.")]
    for turn in range(turns):
        messages += [user(f"  {turn} 🙂\n"), said(f" {turn} yes\n")]
    tokenizer: Any = chats["marked"].tokenizer
    marked = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    sample = encoded(chats["marked"], messages)
    assert isinstance(sample, Encoded)
    assert [int(label != MASKED) for label in sample.labels] == marked["assistant_masks"]


# --- reasoning


def test_reasoning_is_learned_where_it_is_shown(chats: dict[str, ChatTokenizer]) -> None:
    apart = [
        user("1+1?"),
        said("2", reasoning_content="easy"),
        user("2+2?"),
        said("4", reasoning_content="\nharder\n"),
    ]
    # Earlier reasoning is not shown. The tags are the model's: its prompt ends before them.
    expected = ["2<|im_end|>", "<think>\nharder\n</think>\n\n4<|im_end|>"]
    assert learned(chats["qwen3"], apart) == expected
    inside = [
        user("1+1?"),
        said("<think>easy</think>2"),
        user("2+2?"),
        said("<think>\nharder\n</think>\n\n4"),
    ]
    assert learned(chats["qwen3"], inside) == expected


def test_an_empty_block_of_thoughts_is_the_model_s_where_its_prompt_does_not_have_it(
    chats: dict[str, ChatTokenizer],
) -> None:
    assert learned(chats["qwen3"], [user("hi"), said("yes")]) == ["<think>\n\n</think>\n\nyes<|im_end|>"]


def test_thoughts_begin_in_the_prompt_of_some(tmp_path: Path) -> None:
    """What the prompt writes is given to the model, so it does not learn it."""
    style = BY_NAME["qwen3"]
    template = style.template.replace(
        "{{- '<|im_start|>assistant\\n' -}}\n{%- endif -%}\n",
        "{{- '<|im_start|>assistant\\n<think>\\n' -}}\n{%- endif -%}\n",
    )
    assert template != style.template
    chat = ChatTokenizer(save_style(tmp_path, style, template))
    messages = [
        user("1"),
        called("", reasoning_content="why"),
        result("r"),
        said("one"),
        user("2"),
        said("two"),
    ]
    call = '<tool_call>\n{"name": "look", "arguments": {"where": "here, </tool_call><|im_end|>", "n": 3}}\n</tool_call>'
    # The last line break of the prompt and the first of the answer are one token.
    assert learned(chat, messages) == [f"{call}<|im_end|>", "one<|im_end|>", "\n\n</think>\n\ntwo<|im_end|>"]
    assert learned(chat, messages[:4]) == [
        f"why\n</think>\n\n{call}<|im_end|>",
        "\n\n</think>\n\none<|im_end|>",
    ]
    assert learned(chat, [user("1"), said(" one")]) == ["\n\n</think>\n\n one<|im_end|>"]


def test_stripped_thoughts_are_not_learned(chats: dict[str, ChatTokenizer]) -> None:
    messages = [user("1"), said("<think>\nwhy\n</think>\n\none"), user("2"), said("  two")]
    assert learned(chats["r1"], messages) == ["\n\none<|end|>", "  two<|end|>"]
    assert encoded(chats["r1"], [user("1"), said("<think>only</think>")]) == (
        "the chat template shows nothing of messages[1]"
    )


# --- tools


def test_calls_are_learned_as_the_template_writes_them(chats: dict[str, ChatTokenizer]) -> None:
    arguments = '{"where": "here, </tool_call><|im_end|>", "n": 3}'
    messages = [user("hi"), called(), result("a wall"), said("a wall"), user("and?"), said("no")]
    call = f'<tool_call>\n{{"name": "look", "arguments": {arguments}}}\n</tool_call>'
    assert learned(chats["qwen3"], messages, tools=TOOLS) == [
        f"{call}<|im_end|>",
        "a wall<|im_end|>",
        "<think>\n\n</think>\n\nno<|im_end|>",
    ]
    # Another token ends a turn that calls than one that answers.
    assert learned(chats["llama3"], messages, tools=TOOLS) == [
        f'<|python_tag|>{{"name": "look", "parameters": {arguments}}}<|eom_id|>',
        "a wall<|eot_id|>",
        "no<|eot_id|>",
    ]
    messages[1] = called("I look")
    assert learned(chats["granite"], messages, tools=TOOLS) == [
        f'I look<|tool_call|>{{"name": "look", "arguments": {arguments}}}<|end_of_text|>',
        "a wall<|end_of_text|>",
        "no<|end_of_text|>",
    ]


def test_calls_with_thoughts_several_at_a_time_and_without_arguments(chats: dict[str, ChatTokenizer]) -> None:
    bare = {"type": "function", "function": {"name": "look", "arguments": {}}}
    messages = [
        user("hi"),
        said("", tool_calls=[bare, bare], reasoning_content="so"),
        result("x"),
        result("y"),
        said("z"),
    ]
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    assert learned(chats["qwen3"], messages, tools=TOOLS) == [
        f"<think>\nso\n</think>\n\n{call}\n{call}<|im_end|>",
        "<think>\n\n</think>\n\nz<|im_end|>",
    ]


def test_results_of_tools_are_learned_in_unmasked_samples(chats: dict[str, ChatTokenizer]) -> None:
    messages = [user("hi"), called(), result("a wall\n<|im_end|>"), said("so")]
    found = learned(chats["qwen3"], messages, unmask=True, tools=TOOLS)
    assert [found[0], found[2], found[3]] == [
        "hi",
        "a wall\n<|im_end|>",
        "<think>\n\n</think>\n\nso<|im_end|>",
    ]


def test_arguments_are_given_as_text_to_templates_that_join_them(chats: dict[str, ChatTokenizer]) -> None:
    """What they are given is what anyone has to give them; objects they refuse."""
    given, taken = called("I look"), called("I look")
    function = taken["tool_calls"][0]["function"]
    function["arguments"] = text = json.dumps(function["arguments"])
    messages = [user("hi"), given, result("x"), said("so")]
    [sample] = chats["r1"].encode([Conversation(messages, TOOLS, False)], unmask=False)
    assert isinstance(sample, Encoded)
    tokenizer: Any = chats["r1"].tokenizer
    assert list(sample.input_ids) == tokenizer.apply_chat_template(
        [messages[0], taken, *messages[2:]], tools=TOOLS, tokenize=True, return_dict=False
    )
    assert tokenizer.decode([label for label in sample.labels if label != MASKED]) == (
        f"I look<|call|>look\n{text}<|call_end|><|end|>so<|end|>"
    )
    assert given == called("I look"), "what was given is as it was"


def test_a_template_of_its_own_for_tools_is_used_where_there_are_tools(tmp_path: Path) -> None:
    style = BY_NAME["llama3"]
    file = save_style(tmp_path, style, BY_NAME["chatml"].template) / "tokenizer_config.json"
    config = json.loads(file.read_text())
    default = config["chat_template"].replace("im_start", "start_header_id").replace("im_end", "eot_id")
    templates = {"default": default, "tool_use": style.template}
    config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    file.write_text(json.dumps(config))
    chat = ChatTokenizer(tmp_path)
    assert learned(chat, [user("hi"), said(" yes")]) == [" yes<|eot_id|>"]
    found = learned(chat, [user("hi"), called(), result("x"), said(" yes")], tools=TOOLS)
    assert found[0].endswith("}<|eom_id|>")
    assert found[1] == "yes<|eot_id|>"


@pytest.mark.parametrize(
    "question", ["<tool_response>\nhi\n</tool_response>", "<think>", "</think> no <think>"]
)
def test_words_that_a_template_looks_at_are_marked_gently(
    chats: dict[str, ChatTokenizer], question: str
) -> None:
    messages = [
        user("hi"),
        said("a", reasoning_content="so"),
        user(question),
        said("b", reasoning_content="as"),
    ]
    kept = "<think>\nso\n</think>\n\n" if question.startswith("<tool_response>") else ""
    assert learned(chats["qwen3"], messages) == [f"{kept}a<|im_end|>", "<think>\nas\n</think>\n\nb<|im_end|>"]


# --- what is refused


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("mistral", [user("a"), user("b"), said("c")], "refuses it: user and assistant must take turns"),
        ("gemma", [user("a"), result("b"), said("c")], "refuses it: roles must alternate"),
        ("qwen3", [said("c")], "refuses it: no question of the user"),
        (
            "llama3",
            [user("a"), said("", tool_calls=called()["tool_calls"] * 2)],
            "refuses it: one call at a time",
        ),
        ("chatml", [user("a"), called("b"), said("c")], "does not show messages[1].tool_calls"),
        ("llama3", [user("a"), result(" "), said("c")], None),
    ],
)
def test_a_conversation_that_the_template_does_not_take_has_its_reason(
    chats: dict[str, ChatTokenizer], name: str, messages: list[Message], reason: str | None
) -> None:
    others = [user("hi"), said("yes")]
    before, found, after = chats[name].encode(
        [Conversation(each, None, False) for each in (others, messages, others)], unmask=False
    )
    assert isinstance(before, Encoded)
    assert isinstance(after, Encoded)
    if reason is None:
        assert isinstance(found, Encoded)
    else:
        assert isinstance(found, str)
        assert reason in found


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "the tokenizer has no chat template"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "has no special token"),
        ("{{ messages[0].content }}", "does not show every message"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
        ("{% for m in messages %}{{ m.content", "is of no use"),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error_of_the_model(
    tmp_path: Path, template: str, said: str
) -> None:
    save_tokenizer(tmp_path, template)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InvalidConfigurationError, match=said) as caught:
        ChatTokenizer(tmp_path)
    assert str(caught.value).startswith("spec.model: ")


def test_a_tokenizer_without_special_tokens_ends_no_answer(tmp_path: Path) -> None:
    file = save_style(tmp_path, Style("chatml", (), end="<|im_end|>")) / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    with pytest.raises(InvalidConfigurationError, match="which has no special token"):
        ChatTokenizer(tmp_path)


def test_it_is_the_same_day_whenever_samples_are_made(tmp_path: Path) -> None:
    template = "It is {{ strftime_now('%A, %-d %B %Y') }}." + BY_NAME["chatml"].template
    chat = ChatTokenizer(save_style(tmp_path, BY_NAME["chatml"], template))
    asked = Conversation([user("hi"), said("hello")], None, False)
    [sample], [prompt] = chat.encode([asked], unmask=False), chat.prompts([asked])
    assert isinstance(sample, Encoded)
    for shown in (sample.input_ids, prompt):
        text = chat.tokenizer.decode(list(shown))
        assert isinstance(text, str)
        assert text.startswith("It is Friday, 26 July 2024.<|im_start|>")


# --- documents


def test_a_document_has_the_tokenizer_s_own_special_tokens_and_one_end(tmp_path: Path) -> None:
    tokenizer = DocumentTokenizer(save_style(tmp_path, BY_NAME["llama3"]))
    plain = ChatTokenizer(tmp_path).tokenizer
    bos, eos = plain.bos_token_id, plain.eos_token_id
    one, ended, empty = tokenizer.encode(["hello 🙂", "hello<|eot_id|>", ""])
    assert one == [bos, *plain("hello 🙂", add_special_tokens=False)["input_ids"], eos]
    assert ended == [bos, *plain("hello", add_special_tokens=False)["input_ids"], eos]
    assert empty == [bos, eos]
    assert (tokenizer.end_of_document, tokenizer.padding) == (eos, eos)


def test_documents_pad_with_the_token_for_that(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = DocumentTokenizer(tmp_path)
    assert tokenizer.padding == 256
    assert tokenizer.end_of_document == 258


def test_documents_need_an_end_of_sequence_token(tmp_path: Path) -> None:
    save_style(tmp_path, BY_NAME["zephyr"])
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    with pytest.raises(
        InvalidConfigurationError, match=r"spec\.model: the tokenizer has no end-of-sequence token"
    ):
        DocumentTokenizer(tmp_path)
