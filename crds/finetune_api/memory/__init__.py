"""What training holds in memory at its peak, on each GPU or in each process, and the ways to carry out its steps."""

from finetune_api.memory.choice import fastest
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
]
