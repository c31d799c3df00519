"""Models and data that come over the network, and what a record says of all inputs of a run."""
