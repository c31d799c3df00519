"""A FineTuneJob on this machine: the operator's own decisions, with processes for pods and folders for claims."""
