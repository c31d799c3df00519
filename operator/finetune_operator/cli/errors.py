"""How a command ends that cannot do what it is asked."""


class CommandError(Exception):
    """Ends the command: its message is printed as `Error: ...`, and the exit code is 1."""
