"""Names and patterns that match no layer."""

import reprlib
from collections.abc import Iterable, Sequence

from finetune_api.architecture.families import FAMILIES

# What most models have, as Llama has it.
COMMON_LAYERS = tuple(module.name for module in FAMILIES["llama"].modules)


def last_part(name: str) -> str:
    """`q_proj` of `self_attn.q_proj`."""
    return name.rpartition(".")[2]


def is_name(text: str) -> bool:
    """Whether it is a name, or several joined by dots, and no other regular expression."""
    return text.replace(".", "").isidentifier()


def could_be_layer(name: str) -> bool:
    """Whether any model could have a linear layer with this name, or with this end of its name.

    Of a regular expression that is never ruled out: it may ask for more of the full name than is known here.
    """
    return not is_name(name) or any(
        last_part(name) == last_part(module.name) for family in FAMILIES.values() for module in family.modules
    )


def matching_none(idle: Sequence[str], models: str, layers: Iterable[str]) -> str | None:
    """What to tell about names or patterns that match no layer of `models`; None where there are none such."""
    if not idle:
        return None
    # Shortened: a name of 256 letters would leave a warning no room for what to do.
    shown = ", ".join(reprlib.repr(name) for name in idle[:2])
    more = f" and {len(idle) - 2} more" if len(idle) > 2 else ""
    names = ", ".join(dict.fromkeys(map(last_part, layers)))
    return f"no linear layer of {models} matches {shown}{more}; there are {names}: correct or remove what matches none"
