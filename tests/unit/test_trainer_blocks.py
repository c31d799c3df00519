"""Documents cut into blocks: no token is lost, and loss is taken on what has something before it."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.prepare.blocks import Block, Blocks
from finetune_trainer.prepare.encode import MASKED

END, PADDING = 1, 0
# Tokens that are neither of the two, with the one that ends a document behind them.
DOCUMENTS = st.lists(st.lists(st.integers(2, 99), max_size=40).map(lambda ids: [*ids, END]), max_size=12)


def cut(documents: list[list[int]], size: int) -> list[Block]:
    blocks = Blocks(size, PADDING)
    full = [block for row, ids in enumerate(documents) for block in blocks.add(ids, row)]
    return [*full, *blocks.finish()]


def shown(blocks: list[Block]) -> list[tuple[list[int], list[int], int]]:
    return [(list(block.input_ids), list(block.labels), block.sample) for block in blocks]


def test_documents_go_on_from_block_to_block() -> None:
    assert shown(cut([[11, 12, 13, END], [21, END], [31, 32, END]], 5)) == [
        ([11, 12, 13, END, 21], [MASKED, 12, 13, END, MASKED], 0),
        ([END, 31, 32, END, PADDING], [END, MASKED, 32, END, MASKED], 1),
    ]


def test_a_document_may_fill_several_blocks_and_nothing_be_left() -> None:
    assert shown(cut([[11, 12, 13, 14, 15, END]], 2)) == [
        ([11, 12], [MASKED, 12], 0),
        ([13, 14], [13, 14], 0),
        ([15, END], [15, END], 0),
    ]


def test_there_may_be_no_documents() -> None:
    assert cut([], 8) == []


def test_a_block_is_handed_out_once_it_is_full() -> None:
    blocks = Blocks(3, PADDING)
    assert list(blocks.add([11, END], 4)) == []
    assert [block.sample for block in blocks.add([21, 22, 23, END], 7)] == [4, 7]
    assert list(blocks.finish()) == []


@given(documents=DOCUMENTS, size=st.integers(1, 17))
def test_no_token_is_lost_and_none_is_added(documents: list[list[int]], size: int) -> None:
    blocks = cut(documents, size)
    tokens = [token for ids in documents for token in ids]
    missing = -len(tokens) % size
    assert [token for block in blocks for token in block.input_ids] == tokens + [PADDING] * missing
    assert all(len(block.input_ids) == len(block.labels) == size for block in blocks)


@given(documents=DOCUMENTS, size=st.integers(1, 17))
def test_every_token_is_trained_once_but_the_first_of_documents(
    documents: list[list[int]], size: int
) -> None:
    labels = [label for block in cut(documents, size) for label in block.labels]
    expected = [label for ids in documents for label in (MASKED, *ids[1:])]
    assert labels == expected + [MASKED] * (-len(expected) % size)
    # What begins a block has nothing before it either.
    trained = sum(block.loss_tokens for block in cut(documents, size))
    begins_blocks = sum(label != MASKED for label in labels[::size])
    assert trained == sum(map(len, documents)) - len(documents) - begins_blocks


@given(documents=DOCUMENTS, size=st.integers(1, 17))
def test_a_block_is_named_by_the_first_row_in_it(documents: list[list[int]], size: int) -> None:
    rows = [row for row, ids in enumerate(documents) for _ in ids]
    assert [block.sample for block in cut(documents, size)] == rows[::size]
