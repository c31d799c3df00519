"""Names and patterns that match no layer."""

import reprlib
from collections.abc import Sequence

from finetune_api.architecture import Architecture


def none_of(idle: Sequence[str], architecture: Architecture) -> str | None:
    """What to tell about names or patterns that match no layer; None where there are none such."""
    if not idle:
        return None
    # Shortened: a name of 256 letters would leave a warning no room for what to do.
    shown = ", ".join(reprlib.repr(name) for name in idle[:2])
    more = f" and {len(idle) - 2} more" if len(idle) > 2 else ""
    layers = ", ".join(dict.fromkeys(linear.name.rsplit(".", 1)[-1] for linear in architecture.linears))
    return f"no linear layer of this model matches {shown}{more}; it has {layers}: correct or remove what matches none"
