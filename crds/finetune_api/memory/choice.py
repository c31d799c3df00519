"""Pure: the fastest way to carry out a step that fits a GPU."""

from finetune_api.architecture import Architecture
from finetune_api.memory.modes import Mode, leanest, modes
from finetune_api.memory.peak import largest_token_budget
from finetune_api.recipe import Recipe

# With as many tokens in a micro-batch, gathering weights and exchanging gradients hide behind the arithmetic: 8 bytes
# per weight against 6 operations per weight and token. An H100 that does 400 TFLOP/s needs 130 GB/s for 4,096 tokens,
# which NVLink has within a node, and half of that for 8,192; between nodes, 50 GB/s are usual.
_ENOUGH_TOKENS = 4096
_ENOUGH_TOKENS_BETWEEN_NODES = 8192


def fastest(
    recipe: Recipe, architecture: Architecture, *, longest: int, share: int, stated: int | None, limit: int
) -> Mode:
    """The fastest mode whose estimate is at most `limit` bytes, or the leanest if none fits.

    Samples have up to `longest` tokens, and a process's share of a step has up to `share`. A mode fits if micro-batches
    of `stated` tokens do; if nothing is stated, if they can be as large as is of use. Recomputing activations costs
    more than any exchange that hides behind the arithmetic; among modes alike in that, the one with less traffic is
    taken.
    """
    enough = _ENOUGH_TOKENS if recipe.nodes == 1 else _ENOUGH_TOKENS_BETWEEN_NODES
    enough = stated or max(longest, min(share, enough))

    def traffic(mode: Mode) -> int:
        return mode.traffic(-(-share // (stated or fitting[mode])))

    fitting: dict[Mode, int] = {}
    for mode in modes(recipe):
        largest = largest_token_budget(recipe, architecture, mode, longest=longest, limit=limit)
        if largest is not None and largest >= enough:
            fitting[mode] = largest
    for checkpointing in (False, True):
        alike = [mode for mode in fitting if mode.activation_checkpointing is checkpointing]
        if alike:
            # With a single micro-batch they are the same, and the leaner one comes last.
            return min(reversed(alike), key=traffic)
    return leanest(recipe)
