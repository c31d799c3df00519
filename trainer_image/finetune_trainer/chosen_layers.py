"""Pure: which of a model's layers a user's patterns choose, whatever the method that asks."""

import re
from collections.abc import Collection, Mapping

from finetune_api.guide.layers import matching_none
from finetune_trainer.ends.errors import InvalidConfigurationError


def chosen_layers(layers: Collection[str], patterns: Mapping[str, str], field: str) -> list[str]:
    """The full names in which one of the patterns is found, in their order.

    `patterns` are regular expressions by what the spec's `field` says. Raises InvalidConfigurationError, with the
    layers that there are, where one is found in none.
    """
    idle = [
        stated for stated, pattern in patterns.items() if not any(re.search(pattern, name) for name in layers)
    ]
    if problem := matching_none(idle, "this model", layers):
        raise InvalidConfigurationError(f"{field}: {problem}")
    return [name for name in layers if any(re.search(pattern, name) for pattern in patterns.values())]
