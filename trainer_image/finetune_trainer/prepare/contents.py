"""Pure: which samples, or documents, are equal."""

import hashlib

import numpy as np
import numpy.typing as npt

from finetune_trainer.prepare.encode import Ids

Contents = npt.NDArray[np.uint64]
"""[n] A hash of each. Of ten million that differ, two have the same one with a probability of three in a million."""


def content(*ids: Ids) -> int:
    """The hash of token ids, on every machine the same."""
    found = hashlib.blake2b(digest_size=8)
    for some in ids:
        found.update(np.ascontiguousarray(some, "<i4").data)
    return int.from_bytes(found.digest(), "little")


def duplicates(contents: Contents) -> int:
    """How many are equal to an earlier one."""
    # np.unique and np.isin take some fifty times as long for such numbers.
    ordered = np.sort(contents)
    return int((ordered[1:] == ordered[:-1]).sum())


def also_in(contents: Contents, others: Contents) -> int:
    """How many are equal to one of the others."""
    ordered = np.sort(others)
    first, end = (ordered.searchsorted(contents, side) for side in ("left", "right"))
    return int((first < end).sum())
