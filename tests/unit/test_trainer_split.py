"""What is held back from training: by content, near to the share, and the same for everybody and for ever."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare.contents import also_in, content, duplicates
from finetune_trainer.prepare.split import Split

splits = st.builds(Split, share=st.floats(0.001, 0.999), seed=st.integers(0, 2**31 - 1))
# A few contents, so that many are equal; sizes of what they are: equal ones are equally long.
data = st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda found: len(set(found)) > 1)


def held(split: Split, contents: list[int], sizes: list[int] | None = None) -> list[bool]:
    found = split.held_back(
        np.array(contents, np.uint64), np.array(sizes or [1] * len(contents)), "spec.dataset.train"
    )
    return [bool(each) for each in found]


@given(split=splits, contents=data)
def test_equal_samples_stay_together_and_neither_part_is_empty(split: Split, contents: list[int]) -> None:
    found = held(split, contents)
    apart = {each for each, back in zip(contents, found, strict=True) if back}
    kept = {each for each, back in zip(contents, found, strict=True) if not back}
    assert apart
    assert kept
    assert not apart & kept


@given(split=splits, contents=data, sizes=st.lists(st.integers(1, 50), min_size=31, max_size=31))
def test_nothing_that_is_left_would_bring_it_nearer_to_the_share(
    split: Split, contents: list[int], sizes: list[int]
) -> None:
    of_each = [sizes[each] for each in contents]
    found = held(split, contents, of_each)
    groups: Counter[int] = Counter()
    for each, size in zip(contents, of_each, strict=True):
        groups[each] += size
    apart = {each for each, back in zip(contents, found, strict=True) if back}
    wanted, total = split.share * sum(of_each), sum(groups[each] for each in apart)
    left = [size for each, size in groups.items() if each not in apart]
    if len(left) > 1:
        assert all(abs(total + size - wanted) >= abs(total - wanted) - 1e-9 for size in left)
    if len(apart) > 1:
        assert total - wanted < max(groups[each] for each in apart)
    else:
        # One alone may be more than was wanted; then it is the smallest that there is.
        assert total <= 2 * wanted or total == min(groups.values())


@given(split=splits, samples=st.integers(2, 200))
def test_of_samples_that_differ_the_number_is_the_nearest_one(split: Split, samples: int) -> None:
    number = sum(held(split, list(range(samples))))
    assert 0 < number < samples
    if 1 <= split.share * samples <= samples - 1:
        assert abs(number - split.share * samples) <= 0.5


@given(split=splits, contents=data, random=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(split: Split, contents: list[int], random: Random) -> None:
    order = list(range(len(contents)))
    random.shuffle(order)
    found = held(split, contents)
    assert held(split, [contents[place] for place in order]) == [found[place] for place in order]


def test_other_seeds_hold_others_back_and_all_have_their_turn() -> None:
    contents = [content([each], [each]) for each in range(200)]
    parts = [np.array(held(Split(0.1, seed), contents)) for seed in range(100)]
    assert len({part.tobytes() for part in parts}) == 100
    times = np.sum(parts, axis=0)
    # 10 of 100, and by chance some more or less.
    assert times.mean() == 10
    assert times.min() > 0
    assert times.max() < 25


def test_what_is_held_back_is_the_same_for_ever() -> None:
    """A run that goes on with other versions of libraries must not train on what was held back before."""
    contents = [content([each, 7], [-100, 7]) for each in range(12)]
    assert hex(contents[0]) == "0x915e28678b2c66bf"
    assert [place for place, back in enumerate(held(Split(0.25, 42), contents)) if back] == [0, 3, 6]


@pytest.mark.parametrize("contents", [[5], [5, 5, 5]])
def test_of_data_that_are_all_equal_nothing_can_be_held_back(contents: list[int]) -> None:
    with pytest.raises(InvalidDataError, match=r"^spec.dataset.validationSplit: 0.2 cannot .* all equal"):
        held(Split(0.2, 0), contents)


def test_samples_are_equal_that_have_the_same_tokens_and_learn_the_same_of_them() -> None:
    one = content([1, 2, 3], [-100, 2, 3])
    assert content(np.array([1, 2, 3], np.int32), np.array([-100, 2, 3], np.int32)) == one
    others = [
        content([1, 2, 3], [-100, -100, 3]),
        content([1, 2, 4], [-100, 2, 3]),
        content([1, 2], [-100, 2]),
    ]
    found = np.array([one, *others, one, one], np.uint64)
    assert duplicates(found) == 2
    for among in ([one, others[1]], [others[1], one]):
        assert also_in(found, np.array(among, np.uint64)) == 4
