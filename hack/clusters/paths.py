"""Where the development cluster keeps its files, after the XDG base directory rules."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusters.console import ClusterError, say

_APPLICATION = "finetune-operator"
# The name becomes part of a network namespace, a cgroup and several socket paths, which have a length limit.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?")


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The XDG rules say that a relative path is to be ignored.
    return (Path(value) if value.startswith("/") else Path.home() / default) / _APPLICATION


def binaries_directory() -> Path:
    """The folder that holds one folder per tool and version."""
    return _base("XDG_CACHE_HOME", ".cache") / "bin"


def clusters_directory() -> Path:
    """The folder that holds one folder per cluster."""
    return _base("XDG_STATE_HOME", ".local/state") / "clusters"


def cluster_directory(name: str) -> Path:
    """The folder of the cluster NAME.

    Raises:
        ClusterError: the name is not one to twenty lower-case letters, digits and inner dashes.
    """
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"cluster name {name!r} is not allowed: use 1 to 20 lower-case letters, digits and '-', "
            "with a letter or digit at both ends"
        )
    return clusters_directory() / name


@contextmanager
def locked(lock: Path, waiting: str) -> Iterator[None]:
    """Hold the file `lock` for this process alone; say `waiting` once when another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_if_changed(file: Path, text: str) -> None:
    """Give `file` the content `text`, but do not touch it when it has that already: its readers may watch it."""
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
