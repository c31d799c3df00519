"""Pure: what is wrong with a whole file of data, and how long a row of it may be."""

from finetune_api.units import size

# A row is held whole, and several times over while it is parsed and tokenised. Longer than any book, it is a file
# without line breaks, or one that is damaged.
MAX_ROW_BYTES = 128 << 20


class DamagedError(Exception):
    """What is wrong with a whole file, to be read after its name."""


def too_long(place: str) -> DamagedError:
    """That what begins at a place is longer than any row may be."""
    return DamagedError(
        f"{place} is longer than {size(MAX_ROW_BYTES)}: is a line break missing, or the file damaged? "
        "Split a text that is longer than that"
    )
