"""What training and merging hold in memory at their peaks, and the ways to carry out training steps."""

from finetune_api.memory.choice import fastest
from finetune_api.memory.merging import merge_memory
from finetune_api.memory.modes import Mode, leanest
from finetune_api.memory.peak import Memory, decomposition_peak, estimated, largest_token_budget, memory

__all__ = [
    "Memory",
    "Mode",
    "decomposition_peak",
    "estimated",
    "fastest",
    "largest_token_budget",
    "leanest",
    "memory",
    "merge_memory",
]
