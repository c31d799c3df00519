"""Pure: the life of a job, from its first step to what is left behind; reconcile.py is where to begin."""
