"""Free TCP ports on loopback for servers that can not choose one themselves."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

from clusters.console import ClusterError

# Below the range from which the kernel picks the ports of outgoing connections, so that none of those can take
# a port between the moment it is found free here and the moment its server listens on it.
_RANGE = range(20000, 30000)
_SHARE = 500

# Ports that this process has given out, the oldest first.
_given: dict[int, None] = {}


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 on which nothing listens.

    Servers listen some time later, and some are stopped and started again. So they are drawn from a share of this
    process's own, and what was given out comes again as late as possible.

    Raises:
        ClusterError: hardly any port is free.
    """
    found: list[int] = []
    for port in (*_fresh(), *_given):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            for taken in found:
                _given.pop(taken, None)
                _given[taken] = None
            return found
    share = _share()
    raise ClusterError(f"no {count} free ports between {share.start} and {share.stop}")


def _fresh() -> list[int]:
    """Ports of the share that were not given out yet, in an order that is drawn.

    Not by the generator that hypothesis seeds, or all its tests would get the same.
    """
    share = _share()
    fresh = [port for port in share if port not in _given]
    random.SystemRandom().shuffle(fresh)
    return fresh


@functools.cache
def _share() -> range:
    """The ports that no other process draws from while this one lives, which keeps the lock of a file that says so."""
    locks = Path(tempfile.gettempdir()) / f"finetune-operator-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for start in _RANGE[::_SHARE]:
        file = os.open(locks / str(start), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return range(start, start + _SHARE)
    # So many at once there hardly are: they share all there is.
    return _RANGE


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
