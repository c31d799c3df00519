"""Rows of training data: what is taken, and what is said of the rest."""

import contextlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.sources import Columns
from finetune_trainer.prepare.rows import (
    ROLES,
    Conversation,
    Fault,
    FaultyRowError,
    conversation,
    document,
)

USUAL = Columns()
ASKED: dict[str, Any] = {"role": "user", "content": "hello"}
ANSWERED: dict[str, Any] = {"role": "assistant", "content": "hi"}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "now", "arguments": {"zone": "CET"}}}],
}
TOLD: dict[str, Any] = {"role": "tool", "content": "12:00", "tool_call_id": "1", "name": "now"}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


def row(*messages: Any, **others: Any) -> dict[str, Any]:
    return {"messages": list(messages)} | others


def messages(taken: dict[str, Any], columns: Columns = USUAL) -> list[dict[str, Any]]:
    return conversation(taken, columns).messages


def complaint(refused: dict[str, Any], columns: Columns = USUAL) -> str:
    with pytest.raises(FaultyRowError) as caught:
        conversation(refused, columns)
    return str(Fault.at("line 1", caught.value)).removeprefix("line 1: ")


# Conversations


def test_a_conversation_is_taken_as_it_is() -> None:
    system = {"role": "system", "content": ""}
    thought = ANSWERED | {"reasoning_content": "They greet."}
    said = [system, ASKED, CALLED, TOLD, thought, ASKED, ANSWERED]
    assert conversation(row(*said, tools=[NOW]), USUAL) == Conversation(said, [NOW], unmask=False)


def test_what_a_writer_of_tables_fills_in_is_absent() -> None:
    filler = {"reasoning_content": None, "tool_calls": None, "name": "", "tool_call_id": None, "weight": None}
    filled = row(ASKED | filler, ANSWERED | filler, tools=None, unmask=None, prompt=None, id=7)
    assert conversation(filled, USUAL) == Conversation([ASKED, ANSWERED], None, unmask=False)


def test_a_call_may_have_no_content() -> None:
    for content in (None, "", ...):
        called = {key: value for key, value in (CALLED | {"content": content}).items() if value is not ...}
        assert messages(row(ASKED, called)) == [ASKED, CALLED]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"name": "now", "arguments": '{"zone": "CET"}'}, {"name": "now", "arguments": {"zone": "CET"}}),
        ({"name": "now", "arguments": ""}, {"name": "now", "arguments": {}}),
        ({"name": "now", "function": None}, {"name": "now", "arguments": {}}),
        (
            {"id": "1", "function": {"name": "now", "arguments": '{"at": null}'}},
            {"id": "1", "function": {"name": "now", "arguments": {"at": None}}},
        ),
    ],
)
def test_arguments_are_objects_however_they_are_written(given: Any, taken: Any) -> None:
    for calls in ([given], json.dumps([given])):
        [_, called] = messages(row(ASKED, {"role": "assistant", "tool_calls": calls}))
        assert called["tool_calls"] == [taken]


@pytest.mark.parametrize(
    "tools", [[NOW], json.dumps([NOW]), json.dumps(NOW), [json.dumps(NOW)], NOW], ids=lambda tools: str(tools)
)
def test_tools_are_schemas_or_json_text_of_them(tools: Any) -> None:
    assert conversation(row(ASKED, ANSWERED, tools=tools), USUAL).tools == [NOW]


@pytest.mark.parametrize("nothing", [None, [], "", " "])
def test_a_row_may_have_no_tools(nothing: Any) -> None:
    assert conversation(row(ASKED, ANSWERED, tools=nothing), USUAL).tools is None


def test_messages_may_be_json_text_as_a_table_has_them() -> None:
    assert messages({"messages": json.dumps([ASKED, ANSWERED])}) == [ASKED, ANSWERED]


# Loss on everything


@pytest.mark.parametrize("said", [[ASKED], [TOLD], [ASKED, ANSWERED]])
def test_an_unmasked_row_needs_no_assistant(said: list[dict[str, Any]]) -> None:
    expected = Conversation(said, None, unmask=True)
    assert conversation(row(*said, unmask=True), USUAL) == expected
    assert conversation(row(*said), USUAL, unmask_messages=True) == expected
    assert conversation(row(*said, unmask=False), USUAL, unmask_messages=True) == expected


def test_nothing_can_be_learnt_from_a_system_message() -> None:
    silent = row({"role": "system", "content": "Be brief."}, {"role": "user", "content": " \n"})
    assert complaint(silent | {"unmask": True}).startswith("nobody but the system says anything")
    assert complaint(silent).startswith("no message is of the assistant")
    assert complaint(row(ASKED)) == "no message is of the assistant, so there is nothing to learn"


@pytest.mark.parametrize("value", ["true", 1, 0, "", []])
def test_unmask_is_true_or_false(value: Any) -> None:
    assert complaint(row(ASKED, ANSWERED, unmask=value)).startswith("unmask: must be true or false, not ")


# Other shapes


@pytest.mark.parametrize("about", ["", " ", None, ...])
def test_an_instruction_and_its_output_are_a_conversation(about: Any) -> None:
    alpaca = {"instruction": "hello", "input": about, "output": "hi", "text": "Below is an instruction"}
    assert messages({key: value for key, value in alpaca.items() if value is not ...}) == [ASKED, ANSWERED]


def test_what_an_instruction_is_about_follows_it() -> None:
    said = messages({"instruction": "Translate.", "input": "hello", "output": "salut", "system": "Be brief."})
    assert said == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Translate.\n\nhello"},
        {"role": "assistant", "content": "salut"},
    ]


@pytest.mark.parametrize("prompt", ["hello", [ASKED]])
@pytest.mark.parametrize("completion", ["hi", [ANSWERED]])
def test_a_prompt_and_its_completion_are_a_conversation(prompt: Any, completion: Any) -> None:
    assert messages({"prompt": prompt, "completion": completion}) == [ASKED, ANSWERED]


def test_a_prompt_may_be_a_conversation_with_tools() -> None:
    taken = conversation({"prompt": [ASKED, CALLED, TOLD], "completion": "hi", "tools": [NOW]}, USUAL)
    assert taken == Conversation([ASKED, CALLED, TOLD, ANSWERED], [NOW], unmask=False, context=3)


def test_columns_have_the_names_that_the_spec_says() -> None:
    asked = Columns(prompt="question", completion="answer", system="persona")
    found = {"question": "hello", "answer": "hi", "persona": "", "messages": "not these"}
    assert messages(found, asked) == [ASKED, ANSWERED]
    assert messages({"dialog": [ASKED, ANSWERED]}, Columns(messages="dialog")) == [ASKED, ANSWERED]
    assert messages({"do": "hello", "input": "", "output": "hi"}, Columns(instruction="do")) == [
        ASKED,
        ANSWERED,
    ]
    only_tools = {"messages": [ASKED, ANSWERED], "functions": [NOW]}
    assert conversation(only_tools, Columns(tools="functions")).tools == [NOW]


def test_a_system_column_belongs_to_a_prompt_or_an_instruction() -> None:
    persona = Columns(system="persona")
    said = messages({"prompt": "hello", "completion": "hi", "persona": "Be brief.", "messages": []}, persona)
    assert said == [{"role": "system", "content": "Be brief."}, ASKED, ANSWERED]


def test_the_shape_is_that_of_the_usual_names_that_a_row_has() -> None:
    both = {"prompt": "first words", "prompt_id": "1", "messages": [ASKED, ANSWERED]}
    assert messages(both) == [ASKED, ANSWERED]
    assert messages(both | {"messages": None, "prompt": "hello", "completion": "hi"}) == [ASKED, ANSWERED]


# Faults


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ({}, "has neither messages, nor prompt and completion, nor instruction and output, but nothing: name the"),
        ({"text": 1, "id": 2}, "has neither messages, nor prompt and completion, nor instruction and output, but te"),
        ({"prompt": "hello", "id": 1}, "completion: is missing; the row has prompt, id"),
        ({"completion": "hi", "prompt": None}, "prompt: is null"),
        ({"instruction": "hello"}, "output: is missing; the row has instruction"),
        ({"tools": [NOW]}, "messages: is missing; the row has tools"),
        ({"instruction": " ", "output": "hi"}, "instruction: is empty"),
        ({"instruction": "hello", "output": "\n"}, "output: is empty"),
        ({"instruction": "hello", "output": 42}, "output: must be a string, not a number"),
        ({"instruction": "hello", "output": "hi", "input": 1}, "input: must be a string, not a number"),
        ({"prompt": 1, "completion": "hi"}, "prompt: must be a string or a list of messages, not a number"),
        ({"prompt": "hello", "completion": [ASKED]}, "completion: has no message of the assistant"),
        ({"prompt": [{"role": "bot"}], "completion": "hi"}, "prompt[0].role: must be one of system, user"),
        (
            {"prompt": [{"role": "system", "content": "a"}], "completion": "hi", "system": "b"},
            "system: is one system message too many",
        ),
        ({"messages": {}}, "messages: must be a list of messages, not an object"),
        ({"messages": []}, "messages: must be a list of at least one message"),
        ({"messages": "[]"}, "messages: must be a list of at least one message"),
        ({"messages": "hello"}, "messages: is not JSON (Expecting value"),
        (row("hi"), "messages[0]: must be an object with role and content, not a string"),
        (row(ASKED, {"role": "bot"}), 'messages[1].role: must be one of system, user, assistant, tool, not "bot"'),
        (row(ASKED, {"role": ["user"]}), "messages[1].role: must be one of system, user, assistant, tool, not a list"),
        (
            row({"from": "human", "value": "x"}),
            "messages[0].role: is missing (the message has from, value); it must be one of system, user, assis",
        ),
        (row({}), "messages[0].role: is missing (the message is empty); it must be one of"),
        (row({"role": "user"}), "messages[0].content: must be a string, not null"),
        (row(ASKED, {"role": "assistant", "content": [1]}), "messages[1].content: must be a string, not a list"),
        (row(ASKED, {"role": "assistant", "content": None}), "messages[1].content: must be a string, not null"),
        (row(ASKED, {"role": "assistant", "content": " \n"}), "messages[1].content: is empty: the assistant must"),
        (row(ASKED, ANSWERED | {"reasoning_content": 1}), "messages[1].reasoning_content: must be a string"),
        (
            row(ASKED | {"tool_calls": [1]}, ANSWERED),
            "messages[0].tool_calls: is not supported; a message of role user has role, content",
        ),
        (
            row(ASKED, ANSWERED | {"weight": 0}),
            "messages[1].weight: is not supported; a message of role assistant has role, content, reasoning_content, "
            "tool_calls",
        ),
        (row(ASKED, CALLED, TOLD | {"tool_call_id": 1}, ANSWERED), "messages[2].tool_call_id: must be a string"),
        (row(ASKED, CALLED, TOLD | {"content": {"a": 1}}), "messages[2].content: must be a string, not an object"),
        (row(ASKED, CALLED | {"tool_calls": {"a": 1}}), "messages[1].tool_calls: must be a list of calls, not an obj"),
        (row(ASKED, CALLED | {"tool_calls": "x"}), "messages[1].tool_calls: is not JSON ("),
        (row(ASKED, CALLED | {"tool_calls": [1]}), "messages[1].tool_calls[0]: must be an object, not a number"),
        (row(ASKED, CALLED | {"tool_calls": [{}]}), "messages[1].tool_calls[0].name: is missing"),
        (
            row(ASKED, CALLED | {"tool_calls": [{"function": {"name": 7}}]}),
            "messages[1].tool_calls[0].function.name: must be a name, not 7",
        ),
        (
            row(ASKED, CALLED | {"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}),
            "messages[1].tool_calls[0].function.arguments: must be an object, or JSON text of one, not a list",
        ),
        (
            row(ASKED, CALLED | {"tool_calls": [{"name": "f", "arguments": "{"}]}),
            "messages[1].tool_calls[0].arguments: is not JSON (",
        ),
        (
            row(ASKED, CALLED | {"tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]}),
            "messages[1].tool_calls[0]: cannot be written as JSON (",
        ),
        (row(ASKED, ANSWERED, tools=7), "tools: must be a list of JSON schemas, not a number"),
        (row(ASKED, ANSWERED, tools=[[]]), "tools[0]: must be an object, not a list"),
        (row(ASKED, ANSWERED, tools=["now"]), "tools[0]: is not JSON ("),
        (row(ASKED, ANSWERED, tools=[{"function": "now"}]), "tools[0].function: must be an object, not a string"),
        (row(ASKED, ANSWERED, tools=[{"function": {}}]), "tools[0].function.name: is missing"),
        (row(ASKED | {"content": "a\ud800"}, ANSWERED), "messages[0].content: has half of a surrogate pair (U+D800 at"),
        (row(ASKED, ANSWERED, tools=[{"name": "a\ud800"}]), "tools[0]: has half of a surrogate pair (U+D800 at"),
    ],
)  # fmt: skip
def test_a_fault_names_field_value_and_what_is_allowed(refused: dict[str, Any], said: str) -> None:
    assert complaint(refused).startswith(said)


def test_faults_call_columns_by_their_own_names() -> None:
    asked = Columns(prompt="question", completion="answer", system="persona")
    assert (
        complaint({"question": "x", "reply": "y"}, asked) == "answer: is missing; the row has question, reply"
    )
    assert complaint({"question": "x", "answer": [ASKED, {}]}, asked).startswith("answer[1].role: is missing")
    assert complaint({"dialog": "["}, Columns(messages="dialog")).startswith("dialog: is not JSON")
    assert complaint({"messages": []}, Columns(messages="dialog")).startswith(
        "dialog: is missing; the row has"
    )


def test_long_values_and_names_are_cut() -> None:
    said = complaint(row({"role": "x" * 1000}))
    assert said.endswith(f'not "{"x" * 37}..."')
    many = complaint({f"column {number}" + "x" * 1000: 1 for number in range(100)})
    assert len(many) < 600
    assert "..., ..." in many


def test_what_cannot_be_printed_is_shown_by_its_number() -> None:
    assert complaint(row({"role": "a\ud800"})).endswith('not "a\\ud800"')
    assert complaint({"a\ud800": 1}).startswith("has neither messages, nor")
    assert complaint(row(ASKED | {"\udfff": 1})).startswith("messages[0].\\udfff: is not supported")


def test_what_is_nested_too_deeply_is_a_fault() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    tool = {"name": "f", "parameters": deep}
    assert complaint(row(ASKED, ANSWERED, tools=[tool])) == "is nested too deeply"
    assert complaint({"messages": "[" * 100_000}) == "messages: is nested too deeply"


def test_a_fault_names_place_field_and_reason() -> None:
    assert str(Fault("row 3", "messages[1].role", "is missing")) == "row 3: messages[1].role: is missing"
    assert str(Fault("line 3", "", "is not JSON")) == "line 3: is not JSON"


def test_a_fault_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(FaultyRowError("messages", "is missing")))
    assert Fault.at("line 1", error) == Fault("line 1", "messages", "is missing")


# Documents


def test_a_document_is_taken_as_it_is() -> None:
    assert document({"text": " a\n", "id": 1}, "text") == " a\n"
    assert document({"text": " \n\t"}, "text") == ""
    assert document({"text": ""}, "text") == ""


@pytest.mark.parametrize(
    ("refused", "field", "reason"),
    [
        ({}, "text", "is missing; the row has nothing"),
        ({"document": "a"}, "text", "is missing; the row has document"),
        ({"text": None}, "text", "is null"),
        ({"text": 7}, "text", "must be a string, not a number"),
        ({"text": ["a"]}, "text", "must be a string, not a list"),
        ({"text": "\udfff"}, "text", "has half of a surrogate pair (U+DFFF at character 0), which no tokenizer takes"),
    ],
)  # fmt: skip
def test_what_is_no_document_is_a_fault(refused: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(FaultyRowError) as caught:
        document(refused, "text")
    assert (caught.value.field, caught.value.reason) == (field, reason)


# What the documentation says

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_rows_of_the_documentation_are_taken() -> None:
    shown = [
        json.loads(block) for block in re.findall(r"^```json\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)
    ]
    assert len(shown) >= 4
    for each in shown:
        assert conversation(each, USUAL).messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("line 3", {"text": "a", "id": 1}),
        ("line 8", {"prompt": "a", "prompt_id": 1}),
        ("line 9", row(ASKED, ANSWERED, {"role": "function"})),
        ("line 12", row({"role": "user", "content": []})),
        ("line 17", row(ASKED, ANSWERED | {"content": ""})),
        (
            "line 20",
            row(
                ASKED,
                ANSWERED,
                ASKED,
                CALLED | {"tool_calls": [{"function": {"name": "a", "arguments": "x"}}]},
            ),
        ),
        ("row 31", row(ASKED, ANSWERED, unmask="yes")),
        ("line 41", row({"from": "human", "value": "a"})),
        ("row 77", {"instruction": "a", "output": ""}),
    ],
)
def test_faults_of_the_documentation_are_what_is_said(place: str, line: dict[str, Any]) -> None:
    with pytest.raises(FaultyRowError) as caught:
        conversation(line, USUAL)
    assert str(Fault.at(place, caught.value)) in " ".join(PAGE.split())


# Anything at all

NAMES = ("messages", "tools", "prompt", "completion", "instruction", "input", "output", "system", "unmask")
KEYS = ("role", "content", "tool_calls", "reasoning_content", "name", "tool_call_id", "function", "arguments")
# Half of a surrogate pair is what JSON can say and nobody can print.
TEXT = st.text(st.characters() | st.sampled_from("\ud800\udfff"), max_size=5)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXT,
    st.binary(max_size=3),
    st.dates(),
    st.sampled_from([*ROLES, "[]", "{}", '[{"role": "user", "content": "a"}]', '{"name": "f"}', "1" * 5000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=4)
        | st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": inner})
    ),
    max_leaves=12,
)
ROWS = st.dictionaries(st.sampled_from(NAMES) | TEXT, VALUES, max_size=5)
COLUMNS = st.sampled_from(
    [USUAL, Columns(messages="a"), Columns(prompt="input"), Columns(output="a"), Columns(system="tools")]
)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@given(found=ROWS, columns=COLUMNS, unmask=st.booleans())
def test_any_row_is_a_conversation_or_a_fault(found: dict[str, Any], columns: Columns, unmask: bool) -> None:
    before = repr(found)
    try:
        taken = conversation(found, columns, unmask_messages=unmask)
    except FaultyRowError as error:
        str(Fault.at("line 1", error)).encode()
    else:
        assert taken.messages
        for message in taken.messages:
            assert message["role"] in ROLES
            assert isinstance(message["content"], str)
        json.dumps([taken.messages, taken.tools], allow_nan=False)
        "".join(texts([taken.messages, taken.tools])).encode()
    # What is done with a row changes nothing in it.
    assert repr(found) == before


@given(found=ROWS, column=st.sampled_from(NAMES))
def test_any_row_is_a_document_or_a_fault(found: dict[str, Any], column: str) -> None:
    with contextlib.suppress(FaultyRowError):
        document(found, column).encode()


CONTENT = st.text(min_size=1).filter(str.strip)
TALK = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": st.text()}),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": CONTENT}, optional={"reasoning_content": st.text()}
        ),
        st.fixed_dictionaries(
            {"role": st.just("tool"), "content": st.text()}, optional={"name": st.text(), "tool_call_id": st.text()}
        ),
    ),
    min_size=1,
).filter(lambda said: any(message["role"] == "assistant" for message in said))  # fmt: skip


@given(said=TALK)
def test_every_valid_conversation_is_taken_as_it_is(said: list[dict[str, Any]]) -> None:
    assert messages({"messages": said}) == said
    assert messages({"messages": json.dumps(said)}) == said
