"""Running the machine's own programs, with errors that show what they said."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from clusters.console import ClusterError


def output(
    *command: str | Path, stdin: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command to its end and return what it printed on standard output.

    Raises:
        ClusterError: it is not there or failed; the message has the command and what it printed.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, input=stdin, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed") from error
    if done.returncode != 0:
        raise ClusterError(
            f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}".rstrip()
        )
    return done.stdout
