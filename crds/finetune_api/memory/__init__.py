"""What training holds in memory at its peak, on each GPU or in each process."""

from finetune_api.memory.peak import Memory, decomposition_peak, estimated, largest_token_budget, memory

__all__ = ["Memory", "decomposition_peak", "estimated", "largest_token_budget", "memory"]
