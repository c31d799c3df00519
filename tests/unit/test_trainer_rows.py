"""Rows of training data: what is taken, and what is said of the rest."""

import json
from typing import Any

import pytest

from finetune_trainer.prepare.rows import Fault, Row, parse

ASKED = {"role": "user", "content": "hello"}
ANSWERED = {"role": "assistant", "content": "hi"}


def only(line: bytes) -> Row | Fault:
    [result] = parse([line])
    return result


def row(*messages: Any) -> bytes:
    return json.dumps({"messages": messages}).encode()


def test_a_conversation_is_taken_as_it_is() -> None:
    system = {"role": "system", "content": ""}
    assert only(row(system, ASKED, ANSWERED, ASKED, ANSWERED)) == Row(
        1, [system, ASKED, ANSWERED, ASKED, ANSWERED]
    )


def test_other_columns_and_empty_extras_of_a_message_do_no_harm() -> None:
    line = json.dumps({"id": 7, "messages": [ASKED, ANSWERED | {"tool_calls": None, "name": ""}]})
    assert only(line.encode()) == Row(1, [ASKED, ANSWERED])


def test_lines_are_counted_as_editors_count_them() -> None:
    found = list(
        parse([b"\xef\xbb\xbf" + row(ASKED, ANSWERED), b"\n", b"  \n", b"{\n", row(ASKED, ANSWERED)])
    )
    assert [result.line for result in found] == [1, 4, 5]
    assert [isinstance(result, Fault) for result in found] == [False, True, False]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "line 1: is not JSON"),
        (b"[" * 100_000, "line 1: is nested too deeply"),
        (b'{"messages": "\xff"}', "line 1: is not UTF-8"),
        (b"[1]", "line 1: must be an object, not a list"),
        (b"{}", "line 1: messages: is missing"),
        (b'{"messages": {}}', "line 1: messages: must be a list of at least one message"),
        (b'{"messages": []}', "line 1: messages: must be a list of at least one message"),
        (row("hi"), "line 1: messages[0]: must be an object with role and content, not a string"),
        (row(ASKED, {"role": "bot"}), 'messages[1].role: must be one of system, user, assistant, not "bot"'),
        (row({"content": "x"}), "messages[0].role: must be one of system, user, assistant, not null"),
        (row(ASKED, {"role": "assistant"}), "messages[1].content: must be a string, not null"),
        (
            row(ASKED, {"role": "assistant", "content": [1]}),
            "messages[1].content: must be a string, not a list",
        ),
        (row(ASKED, {"role": "assistant", "content": " \n"}), "messages[1].content: is empty"),
        (row(ASKED), "messages: has no message of the assistant"),
        (row(ASKED, ANSWERED | {"tool_calls": [1]}), "messages[1].tool_calls: is not supported"),
    ],
)
def test_a_fault_names_line_field_and_reason(line: bytes, said: str) -> None:
    result = only(line)
    assert isinstance(result, Fault)
    assert said in str(result)
