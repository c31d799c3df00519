"""Sets whose conversations are answered: what is asked, and what answers are compared with."""

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare.data_sets import open_all
from finetune_trainer.prepare.encode import MASKED
from tiny import conversation, save_tiny_model
from trainer.sets import job, prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return directory


def test_what_is_answered_is_kept_beside_its_reference(tmp_path: Path, model: Path) -> None:
    rows = [
        conversation("hi", " you "),
        conversation("hi", "y" * 300),
        {"messages": [*conversation("a", "b")["messages"], *conversation("c", "4 2")["messages"]]},
        {"prompt": "x", "completion": "y"},
        conversation("more", "than are asked"),
    ]
    run = job(tmp_path, model, rows, sets={"math": rows}, generate={"maxSamples": 3})
    found = prepare(run).evaluated["math"]
    assert [(question.row, question.reference) for question in found.questions] == [
        (0, " you "),
        (2, "4 2"),
        (3, "y"),
    ]
    for place, question in enumerate(found.questions):
        input_ids, labels = found.samples[place]
        # What comes behind the prompt is what is learnt of the last message.
        start = len(question.prompt)
        assert input_ids[:start].tolist() == list(question.prompt)
        assert labels[start] == input_ids[start]
        assert labels[start - 1] == MASKED
    opened = open_all(run, prepare(run).digests)
    assert opened is not None
    assert opened.evaluated["math"].questions == found.questions
    # Data that are trained on need no such end.
    assert prepare(run).train.questions == ()


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [*conversation("x", "y")["messages"], {"role": "user", "content": "z"}],
            "ends with a message of role user",
        ),
        ([{"role": "assistant", "content": "y"}], "has an answer only: nothing is asked"),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {}}]},
            ],
            "ends with an answer that has no content",
        ),
        (conversation("x", "(")["messages"], r"ends with an answer .* is no regular expression"),
    ],
)
def test_what_cannot_be_answered_or_compared_is_a_fault_of_its_row(
    tmp_path: Path, model: Path, messages: list[Any], said: str
) -> None:
    rows = [conversation("x", "y"), {"messages": messages}]
    run = job(tmp_path, model, rows[:1], sets={"math": rows}, generate={"match": "Regex"})
    with pytest.raises(InvalidDataError, match=rf"sets\[math\].*1 row of 2 .* on: line 2: {said}"):
        prepare(run)
