"""Numbers as people read them."""

import pytest

from finetune_api.units import size, times


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


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.5, "1.5"), (10.0, "10"), (199.99999, "200"), (2000.0, "2,000"), (2.0e5, "200,000")],
)
def test_ratios_are_told_without_powers_of_ten(ratio: float, words: str) -> None:
    assert times(ratio) == words
