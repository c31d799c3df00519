"""Numbers as people read them."""

import pytest

from finetune_api.units import size


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "0.0 MiB"),
        (190_000, "0.2 MiB"),
        (24_007_980, "23 MiB"),
        (2**30, "1.0 GiB"),
        (12 * 2**30, "12 GiB"),
    ],
)
def test_bytes_are_told_in_a_unit_that_suits(amount: int, words: str) -> None:
    assert size(amount) == words
