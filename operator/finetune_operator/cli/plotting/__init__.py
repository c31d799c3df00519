"""Charts of how training went."""
