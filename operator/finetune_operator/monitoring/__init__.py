"""Whether the operator is alive, and how it and its jobs are doing."""
