"""So much at once, and then so much a second."""

import pytest

from finetune_operator.endpoint.rates import Rates


def taken(rates: Rates[str], key: str, seconds: float, per_second: int = 1000, start: float = 0) -> int:
    """How many are taken of many that come evenly for so long."""
    times = [start + number / per_second for number in range(int(seconds * per_second))]
    return sum(rates.take(key, time) == 0 for time in times)


@pytest.mark.parametrize("start", [0, 0.1, 1_795_945_788.66])
def test_a_burst_and_then_the_rate(start: float) -> None:
    rates = Rates[str](3, burst=10, most=100)
    assert 10 + 3 * 60 - 1 <= taken(rates, "a", 60, start=start) <= 10 + 3 * 60 + 1


def test_each_key_has_its_own() -> None:
    rates = Rates[str](2, burst=10, most=100)
    taken(rates, "a", 60)
    assert taken(rates, "b", 1, start=60) >= 10


def test_it_tells_how_long_to_wait_and_after_that_it_may() -> None:
    rates = Rates[str](0.5, burst=1, most=100)
    assert rates.take("a", 100) == 0
    wait = rates.take("a", 100.5)
    assert wait == pytest.approx(1.5)
    assert rates.take("a", 100.5 + wait) == 0


def test_who_was_refused_has_not_used_anything_up() -> None:
    rates = Rates[str](1, burst=5, most=100)
    taken(rates, "a", 100)
    assert rates.take("a", 101.1) == 0


def test_a_clock_that_is_put_back_keeps_nobody_out() -> None:
    rates = Rates[str](1, burst=5, most=100)
    taken(rates, "a", 10, start=10_000)
    assert rates.take("a", 0) <= 1
    assert rates.take("a", 1.1) == 0


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    rates = Rates[str](1, burst=1, most=2)
    for key in ("a", "b", "c"):
        assert rates.take(key, 0) == 0
    assert rates.take("c", 0) > 0
    assert rates.take("b", 0) > 0
    assert rates.take("a", 0) == 0


def test_who_is_counted_again_drives_nobody_out() -> None:
    rates = Rates[str](1, burst=2, most=2)
    for key in ("a", "a", "b", "b"):
        assert rates.take(key, 0) == 0
    assert rates.take("a", 0) > 0


def test_what_was_given_back_was_never_taken() -> None:
    rates = Rates[str](1, burst=2, most=2)
    for _ in range(10):
        assert rates.take("a", 0) == 0
        rates.give_back("a")
    assert taken(rates, "a", 0.5) == 2
