"""How the blocks of a split model are dealt to GPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.splitting import blocks_per_gpu


@given(layers=st.integers(1, 200), gpus=st.integers(1, 16), tied=st.booleans())
def test_shares_are_as_even_as_they_go(layers: int, gpus: int, tied: bool) -> None:
    shares = blocks_per_gpu(layers, gpus, tied_embeddings=tied)
    assert len(shares) == gpus
    assert sum(shares) == layers
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("layers", "gpus", "tied", "expected"),
    [
        (10, 4, False, [2, 3, 3, 2]),
        (9, 4, True, [2, 3, 2, 2]),
        (11, 4, True, [2, 3, 3, 3]),
        (3, 2, True, [1, 2]),
        (32, 4, False, [8, 8, 8, 8]),
    ],
)
def test_gpus_with_embedding_or_head_get_no_more_than_others(
    layers: int, gpus: int, tied: bool, expected: list[int]
) -> None:
    assert blocks_per_gpu(layers, gpus, tied_embeddings=tied) == expected
