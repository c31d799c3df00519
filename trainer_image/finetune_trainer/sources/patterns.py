"""Names with * in them, of repositories and of object stores."""

import re


def compiled(pattern: str) -> re.Pattern[str]:
    """What matches a path with * and **: one of them any part of a name, two of them any part of the path."""
    parts = re.split(r"(\*\*/|\*+)", pattern)
    meanings = {"*": "[^/]*", "**/": "(?:[^/]+/)*"}
    return re.compile(
        "".join((meanings.get(part, ".*") if part.startswith("*") else re.escape(part)) for part in parts)
    )
