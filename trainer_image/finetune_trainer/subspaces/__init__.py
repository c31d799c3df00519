"""Orthogonal subspaces of weight matrices: the mathematics of one, and many of them dealt to a gang's processes."""
