"""Where the assistant speaks, in text that a template made; templates here are plain functions."""

from collections.abc import Sequence

import pytest

from finetune_trainer.prepare.encode import MASKED, encode
from finetune_trainer.prepare.render import Message, Rendered, TemplateError, after_answer, render

ROLES = {"u": "user", "a": "assistant", "s": "system"}


def chat(*turns: str) -> list[Message]:
    """'u:hello' is a message of the user."""
    return [{"role": ROLES[turn[0]], "content": turn[2:]} for turn in turns]


def chatml(messages: Sequence[Message]) -> str:
    return "".join(f"<{m['role']}>\n{m['content']}<end>\n" for m in messages)


def trimming(messages: Sequence[Message]) -> str:
    return "".join(f"<{m['role']}>{m['content'].strip()}<end>" for m in messages)


def spoken(messages: list[Message], template: object = chatml) -> list[str]:
    found = render(messages, template)  # type: ignore[arg-type]
    return [found.text[start:end] for start, end in found.spans]


def test_each_turn_of_the_assistant_is_found() -> None:
    assert spoken(chat("s:be good", "u:hi", "a:hello", "u:bye", "a:so long")) == ["hello", "so long"]


def test_words_that_occur_elsewhere_too_are_no_trap() -> None:
    messages = chat("u:yes", "a:yes", "u:<assistant>\nyes<end>", "a:yes")
    found = render(messages, chatml)
    assert [found.text[s:e] for s, e in found.spans] == ["yes", "yes"]
    assert found.spans[0][0] > found.text.index("<assistant>")
    assert found.spans[1][1] == len(found.text) - len("<end>\n")


def test_a_template_may_trim() -> None:
    assert spoken(chat("u:hi", "a:  hello \n"), trimming) == ["hello"]


def test_a_template_may_treat_reasoning_apart() -> None:
    def reasoning(messages: Sequence[Message]) -> str:
        text = ""
        for index, message in enumerate(messages):
            said, is_last = message["content"], index == len(messages) - 1
            if message["role"] == "assistant":
                thought, _, said = said.rpartition("</think>")
                thought = thought.removeprefix("<think>")
                if is_last:
                    said = f"<think>\n{thought}\n</think>\n{said}"
            text += f"<{message['role']}>\n{said}<end>\n"
        return text

    # Earlier reasoning is not shown, so it is not learned; what is shown of the last answer is.
    assert spoken(chat("u:q", "a:<think>t1</think>one", "u:q", "a:<think>t2</think>two"), reasoning) == [
        "one",
        "t2\n</think>\ntwo",
    ]


def test_a_template_that_hides_repeats_or_changes_an_answer_is_refused() -> None:
    def hiding(messages: Sequence[Message]) -> str:
        return "".join(m["content"] for m in messages if m["role"] == "user")

    def repeating(messages: Sequence[Message]) -> str:
        return chatml(messages) + messages[-1]["content"]

    def shouting(messages: Sequence[Message]) -> str:
        return chatml(messages).upper()

    for template, said in ((hiding, "0 times"), (repeating, "2 times"), (shouting, "as it is")):
        with pytest.raises(TemplateError, match=said):
            render(chat("u:hi", "a:hello"), template)


def test_what_ends_an_answer_is_what_the_template_puts_after_it() -> None:
    assert after_answer(chatml) == "<end>\n"


def labelled(rendered: Rendered, tokens: list[str]) -> list[str]:
    """Token texts that loss is taken on; each token's id is its place, that of <end> is 99."""
    offsets, ids, at = [], [], 0
    for index, token in enumerate(tokens):
        offsets.append((at, at + len(token)))
        ids.append(99 if token == "<end>" else index)
        at += len(token)
    assert at == len(rendered.text)
    encoded = encode(rendered, ids, offsets, 99)
    assert all(label in (MASKED, token) for label, token in zip(encoded.labels, ids, strict=True))
    return [token for token, label in zip(tokens, encoded.labels, strict=True) if label != MASKED]


def test_loss_is_taken_on_the_answer_and_the_token_that_ends_it() -> None:
    rendered = render(chat("u:hi", "a:hello you", "u:x", "a:y"), chatml)
    tokens = ["<user>", "\n", "hi", "<end>", "\n", "<assistant>", "\n", "hel", "lo", " you", "<end>", "\n"]
    tokens += ["<user>", "\n", "x", "<end>", "\n", "<assistant>", "\n", "y", "<end>", "\n"]
    assert labelled(rendered, tokens) == ["hel", "lo", " you", "<end>", "y", "<end>"]


def test_a_token_that_reaches_over_the_edge_is_the_assistant_s() -> None:
    rendered = Rendered("A: hello <end>", [(3, 8)])
    assert labelled(rendered, ["A:", " hello", " ", "<end>"]) == [" hello", "<end>"]


def test_a_later_end_is_not_this_turn_s() -> None:
    rendered = Rendered("hello next<end>", [(0, 5)])
    assert labelled(rendered, ["hello", " next", "<end>"]) == ["hello"]


def test_the_first_token_of_a_sequence_is_never_predicted() -> None:
    encoded = encode(Rendered("ab", [(0, 2)]), [1, 2], [(0, 1), (1, 2)], 99)
    assert encoded.labels == [1, 2]
    assert encoded.loss_tokens == 1
