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
    return len(contents) - len(np.unique(contents))


def also_in(contents: Contents, others: Contents) -> int:
    """How many are equal to one of the others."""
    return int(np.isin(contents, others).sum())
