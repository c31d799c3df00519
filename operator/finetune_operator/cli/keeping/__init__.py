"""What a run has left: its checkpoints, and its result."""
