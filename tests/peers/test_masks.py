"""Token ids and labels beside those of instructlab.training, sample by sample.

It renders a conversation with special tokens around the words to train on, and takes them out of the token ids
afterwards. Where the templates and tokenizers leave that without a trace, ids and labels are ours. Where they do not,
each difference has a test, and its docstring says why ours is as it is.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from finetune_api.sources import Columns
from finetune_trainer.prepare.encode import MASKED
from finetune_trainer.prepare.rows import conversation
from finetune_trainer.prepare.tokenizer import ChatTokenizer
from styles import BY_NAME, save_style

data_process = pytest.importorskip(
    "instructlab.training.data_process", reason="the group `peers` is not installed"
)
pytestmark = pytest.mark.peers

Row = dict[str, Any]
# Input ids and labels.
Sample = tuple[list[int], list[int]]


class Pair:
    """Both trainers' view of a model directory."""

    def __init__(self, model: Path) -> None:
        self._ours = ChatTokenizer(model)
        self._theirs = data_process.configure_tokenizer(str(model))
        # Without their marks.
        self.tokenizer: Any = self._ours.tokenizer

    def ours(self, row: Row) -> Sample:
        [encoded] = self._ours.encode([conversation(row, Columns())], unmask=False)
        assert not isinstance(encoded, str), encoded
        return [int(token) for token in encoded.input_ids], [int(label) for label in encoded.labels]

    def theirs(self, row: Row) -> Sample:
        sample = data_process.unmask_sample(row, self._theirs)
        return sample["input_ids"], sample["labels"]

    def plain(self, row: Row) -> list[int]:
        """What inference puts before the model."""
        ids: list[int] = self.tokenizer.apply_chat_template(row["messages"], return_dict=False)
        return ids

    def trained(self, sample: Sample) -> str:
        """The text that loss is taken on."""
        text: str = self.tokenizer.decode([label for label in sample[1] if label != MASKED])
        return text

    def text(self, sample: Sample) -> str:
        text: str = self.tokenizer.decode(sample[0])
        return text


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def of(name: str) -> Pair:
        return Pair(save_style(tmp_path_factory.mktemp("styles") / name, BY_NAME[name]))

    return of


def system(content: str) -> Row:
    return {"role": "system", "content": content}


def user(content: str) -> Row:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: str) -> Row:
    return {"role": "assistant", "content": content, **fields}


ROWS: dict[str, Row] = {
    "one turn": {"messages": [user("where is hello"), assistant("yes no answer")]},
    "with a system message": {"messages": [system("the system"), user("where"), assistant("yes no answer")]},
    "several turns": {
        "messages": [
            user("where"),
            assistant("yes no"),
            user("question\nno"),
            assistant("here  it is\n\nhello"),
        ]
    },
    "the same answer twice": {"messages": [user("yes"), assistant("yes"), user("yes"), assistant("yes")]},
    "nothing but marks in it": {"messages": [user("hello"), assistant("<|assistant|>\nanswer")]},
    "unmask": {
        "messages": [user("where is"), assistant("yes"), user("no"), assistant("here")],
        "unmask": True,
    },
    "unmask, but not the system message": {
        "messages": [system("the system"), user("where is"), assistant("yes no")],
        "unmask": True,
    },
    "unmask: false": {"messages": [user("where is"), assistant("yes no")], "unmask": False},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("style", ["chatml", "marked", "granite", "r1"])
def test_ids_and_labels_are_the_same(pair: Callable[[str], Pair], style: str, row: Row) -> None:
    assert pair(style).ours(row) == pair(style).theirs(row)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_same_is_trained_where_a_header_ends_with_blanks(pair: Callable[[str], Pair], row: Row) -> None:
    """Llama 3. Their marks keep the header's line breaks from becoming one token with what follows; the model sees
    them so at inference, so our ids are those of plain rendering."""
    both = pair("llama3")
    ours, theirs = both.ours(row), both.theirs(row)
    assert both.text(ours) == both.text(theirs)
    assert both.trained(ours) == both.trained(theirs)
    assert ours[0] == both.plain(row)
    assert theirs[0] != both.plain(row)


@pytest.mark.parametrize("style", ["mistral", "zephyr"])
def test_words_begin_as_in_plain_rendering(pair: Callable[[str], Pair], style: str) -> None:
    """Tokenizers that put a space before the first word put another one behind each of their marks; nobody writes
    that at inference, so our ids are those of plain rendering."""
    both, row = pair(style), ROWS["several turns"]
    assert both.ours(row)[0] == both.plain(row)
    assert both.theirs(row)[0] != both.plain(row)


def test_blanks_that_the_template_trims_are_not_trained(pair: Callable[[str], Pair]) -> None:
    """Between their marks blanks are safe from the template's `trim`; in plain rendering there are none to learn."""
    both = pair("llama3")
    row = {"messages": [user("where"), assistant("\n yes ")]}
    assert both.trained(both.ours(row)) == "yes<|eot_id|>"
    assert both.trained(both.theirs(row)) == "\n yes <|eot_id|>"
    assert both.ours(row)[0] == both.plain(row)


@pytest.mark.parametrize(("style", "end"), [("gemma", "<end_of_turn>"), ("phi4", "<|im_end|>")])
def test_the_end_of_a_turn_is_trained_though_it_is_not_eos(
    pair: Callable[[str], Pair], style: str, end: str
) -> None:
    """They look for the tokenizer's EOS after an answer; with another end of turn the model would not learn to stop."""
    both, row = pair(style), ROWS["several turns"]
    ours, theirs = both.ours(row), both.theirs(row)
    assert ours[0] == theirs[0]
    assert both.trained(ours).count(end) == 2
    assert end not in both.trained(theirs)
    assert both.trained(ours).replace(end, "") == both.trained(theirs)


def test_each_turn_ends_and_the_conversation_does_not(pair: Callable[[str], Pair]) -> None:
    """Phi-3 ends each turn with <|end|> and all of it with EOS. They train on everything up to EOS, which comes only
    after the last turn; ours is what the model writes in each turn."""
    both, row = pair("phi3"), ROWS["several turns"]
    ours, theirs = both.ours(row), both.theirs(row)
    assert ours[0] == theirs[0]
    assert both.trained(ours).count("<|end|>") == 2
    assert both.trained(theirs).count("<|end|>") == 1
    assert both.trained(theirs).endswith("<|endoftext|>")
    assert not both.trained(ours).endswith("<|endoftext|>")


def test_what_the_model_writes_before_its_words_is_trained(pair: Callable[[str], Pair]) -> None:
    """Qwen 3 shows the last answer behind an empty block of thoughts. The prompt of inference does not hold that
    block, so the model has to write it; they train on the words alone."""
    both, row = pair("qwen3"), ROWS["one turn"]
    assert both.trained(both.ours(row)) == "<think>\n\n</think>\n\nyes no answer<|im_end|>"
    assert both.trained(both.theirs(row)) == "yes no answer"


def test_thoughts_are_trained_where_the_template_shows_them(pair: Callable[[str], Pair]) -> None:
    """Theirs begin behind the tag that opens them and end before the end of the turn."""
    both = pair("qwen3")
    row = {"messages": [user("where"), assistant("yes", reasoning_content="thus hello")]}
    assert both.trained(both.ours(row)) == "<think>\nthus hello\n</think>\n\nyes<|im_end|>"
    assert both.trained(both.theirs(row)) == "thus hello\n</think>\n\nyes"


@pytest.mark.parametrize("style", ["chatml", "granite"])
def test_thoughts_that_no_template_shows_do_no_harm(pair: Callable[[str], Pair], style: str) -> None:
    """They expect the thoughts they marked, take the words for them, and lose the end of the turn."""
    both, end = pair(style), BY_NAME[style].end
    row = {"messages": [user("where"), assistant("yes", reasoning_content="thus hello")]}
    assert both.trained(both.ours(row)) == f"yes{end}"
    assert both.trained(both.theirs(row)) == "yes"


def test_thoughts_within_the_words_are_taken(pair: Callable[[str], Pair]) -> None:
    """Templates that take an answer apart at </think> part their marks, which they refuse; ours need no pair."""
    both = pair("qwen3")
    row = {"messages": [user("where"), assistant("<think>\nso\n</think>\n\nyes")]}
    assert both.trained(both.ours(row)) == "<think>\nso\n</think>\n\nyes<|im_end|>"
    with pytest.raises(ValueError, match="This should never happen"):
        both.theirs(row)
